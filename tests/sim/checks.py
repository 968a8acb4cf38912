"""What must hold in every simulated network, whatever goes wrong. Its own bookkeeping: nothing is asked of the nodes
that the nodes could all be wrong about together.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from chain import certificate, consensus, messages
from chain.chain import FinalisedBlock
from chain.types import FINALISE, NOTARISE, TIMEOUT, Block, Certificate, Claim, InvalidVote, Log, Vote, VoteKind
from tests.chain.chain_kit import LOGGER
from tests.node.ledger_world import ADDRESS_OF, Member
from tests.sim.scenario import Scenario

if TYPE_CHECKING:
    from tests.sim.world import SimWorld


class Violation(Exception):
    """An invariant was broken; the seed replays it."""


_Cast = tuple[int, int, VoteKind]  # epoch, view, kind


class Referee:
    """
    Attributes:
        watches_votes, watches_memory: whether to apply these rules, or leave it to others to notice.
    """

    def __init__(self, world: SimWorld, scenario: Scenario, liars: frozenset[str]) -> None:
        self._world, self._scenario, self._liars = world, scenario, liars
        self.watches_votes = self.watches_memory = True
        self._cast: dict[str, dict[_Cast, bytes]] = {}  # what is on disk, over all lives
        self._kept: dict[str, dict[_Cast, bytes]] = {}  # likewise, since the disk was wiped
        self._proven: dict[str, set[_Cast]] = {}  # certificates on the disk
        self._heights: dict[str, int] = {}
        self._digests: dict[int, bytes] = {}  # final blocks
        self._contents: dict[int, tuple[object, ...]] = {}  # their heads, transactions and logs
        self._epochs: list[tuple[int, tuple[bytes, ...]]] = [(1, world.network.validator_addresses)]
        self._attested: dict[bytes, set[str]] = {}  # claims -> honest nodes that found them true
        self.logs: dict[int, tuple[Log, ...]] = {}  # of final blocks
        self._wiped: set[str] = set()

    @property
    def height(self) -> int:
        return max(self._digests, default=0)

    def lost_disk(self, name: str) -> None:
        self._heights[name] = 0
        self._kept.pop(name, None)
        self._proven.pop(name, None)
        self._wiped.add(name)

    def _may_repeat(self, name: str, epoch: int) -> bool:
        """Its disk was wiped, and no quorum lacks an honest voter: then no vote of it makes a second certificate."""
        n = len(self._validators(epoch))
        return name in self._wiped and certificate.quorum(n, self._scenario.ratio or 0.0) == n

    # ---- votes ------------------------------------------------------------------------------------------------------
    def logged(
        self, name: str, votes: Sequence[tuple[Vote, Block | None]], certificates: Sequence[Certificate]
    ) -> None:
        cast, kept = self._cast.setdefault(name, {}), self._kept.setdefault(name, {})
        for vote, _ in votes:
            kept[vote.epoch, vote.view, vote.kind] = vote.digest
            first = cast.setdefault((vote.epoch, vote.view, vote.kind), vote.digest)
            if not self.watches_votes or self._may_repeat(name, vote.epoch):
                continue
            if first != vote.digest:
                raise Violation(f"{name} cast two {vote.kind} votes in view {vote.view}")
            other = {FINALISE: TIMEOUT, TIMEOUT: FINALISE}.get(vote.kind)
            if other is not None and (vote.epoch, vote.view, other) in cast:
                raise Violation(f"{name} both finalised and timed out view {vote.view}")
        proven = self._proven.setdefault(name, set())
        proven.update((each.epoch, each.view, each.kind) for each in certificates if each.kind != FINALISE)

    def said(self, name: str, message: consensus.Message) -> None:
        """An honest validator sends this: own votes must be on its disk."""
        cast = self._kept.get(name, {})
        address = ADDRESS_OF[name]
        for vote in messages.votes_of(message):
            if self._validators(vote.epoch)[vote.voter] == address:
                digest = cast.get((vote.epoch, vote.view, vote.kind))
                if digest != vote.digest:
                    raise Violation(f"{name} sends a {vote.kind} vote of view {vote.view} that is not on its disk")

    def booted(self, name: str, member: Member) -> None:
        """Of what is on its disk a node forgets nothing that still matters."""
        chain = member.ledger.chain
        if chain.finalised.number < self._heights.get(name, 0):
            raise Violation(f"the finalised head of {name} went back to {chain.finalised.number}")
        known = max(self._contents, default=0)
        for number in range(known + 1, chain.finalised.number + 1):  # it died before it could tell
            receipts = chain.receipts(number)
            hashes = tuple(receipt.fields.hash for receipt in receipts)
            self._learn(name, FinalisedBlock(chain.head(number), hashes, chain.logs(number, number)))
        validator = member.ledger.validator
        if validator is None or not self.watches_memory:
            return
        machine = validator.machine
        for (epoch, view, kind), digest in self._kept.get(name, {}).items():
            if epoch == machine.epoch and view > machine.final_view:
                vote = machine._votes.mine.get((view, kind))
                if vote is None or vote.digest != digest:
                    raise Violation(f"{name} forgot its {kind} vote of view {view}")
                if kind == NOTARISE and machine.known(digest) is None:
                    raise Violation(f"{name} forgot the body that it voted for in view {view}")
        for epoch, view, kind in self._proven.get(name, ()):
            known = machine._views.notarised if kind == NOTARISE else machine._views.skipped
            if epoch == machine.epoch and view > machine.final_view and view not in known:
                raise Violation(f"{name} forgot that view {view} ended")

    def accused(self, first: Vote, second: Vote) -> None:
        address = self._validators(first.epoch)[first.voter]
        name = next(name for name in ADDRESS_OF if ADDRESS_OF[name] == address)
        if self.watches_votes and name not in self._liars and not self._may_repeat(name, first.epoch):
            raise Violation(f"evidence against an honest validator: {first.kind} and {second.kind} in {first.view}")

    # ---- finality ---------------------------------------------------------------------------------------------------
    def stored(
        self, name: str, numbers: Sequence[tuple[int, bytes]], proven: Block | None, proof: Certificate
    ) -> None:
        """These blocks are final on a node's disk."""
        for number, digest in numbers:
            if number != self._heights.get(name, 0) + 1:
                raise Violation(f"{name} went from height {self._heights.get(name, 0)} to {number}")
            self._heights[name] = number
            if self._digests.setdefault(number, digest) != digest:
                raise Violation(f"two final blocks at height {number}")
        self._check_proof(numbers[-1], proven, proof)

    def _check_proof(self, last: tuple[int, bytes], proven: Block | None, proof: Certificate) -> None:
        """By the validators of that height, as this referee has followed them."""
        number = max(index for index, (first, _) in enumerate(self._epochs) if first <= last[0])
        validators = self._epochs[number][1]
        chain_id, genesis = self._world.network.chain_id, self._world.genesis_digest
        least = max(2 * len(validators) // 3 + 1, -(-Fraction(str(self._scenario.ratio or 0)) * len(validators) // 1))
        stated = proof.epoch, proof.kind, proof.digest
        if stated != (number, FINALISE, last[1] if proven is None else proven.digest):
            raise Violation(f"height {last[0]} is made final by a certificate of something else")
        try:
            certificate.verify_certificate(proof, validators, int(least), chain_id, genesis)
        except InvalidVote as error:
            raise Violation(f"height {last[0]} is not proven by a quorum of its epoch: {error}") from error

    def told(self, name: str, blocks: Sequence[FinalisedBlock]) -> None:
        """A node acts on these blocks from now on."""
        for block in blocks:
            if block.head.number > self._heights.get(name, 0):
                raise Violation(f"{name} acts on height {block.head.number} before it is on disk")
            self._learn(name, block)

    def _learn(self, name: str, block: FinalisedBlock) -> None:
        content = (block.head, block.transactions, tuple(block.logs))
        number = block.head.number
        if number in self._contents:
            if self._contents[number] != content:
                raise Violation(f"{name} has another root, or other transactions or logs, at height {number}")
            return
        self._contents[number] = content
        self.logs[number] = tuple(block.logs)
        for log in block.logs:
            if (change := self._world.system.validators_of(log)) is not None:
                self._epochs.append((number + 1, change[1]))
            if (claim := self._world.system.claim_of(log)) is not None:
                self._check_claim(block, self._digest_of(claim), log.address == LOGGER and claim.update[0] % 2)

    def _digest_of(self, claim: Claim) -> bytes:
        return self._world.system.claim_digest(claim, self._world.network.chain_id, self._world.genesis_digest)

    def found_true(self, name: str, claim: bytes) -> None:
        """An honest validator attests a claim."""
        self._attested.setdefault(claim, set()).add(name)

    def _check_claim(self, block: FinalisedBlock, claim: bytes, false: int) -> None:
        validators = self._validators(block.head.epoch)
        honest = {name for name in self._attested.get(claim, ()) if ADDRESS_OF[name] in validators}
        liars = sum(ADDRESS_OF[name] in validators for name in self._liars)
        least = certificate.quorum(len(validators), self._scenario.ratio or 0.0) - liars
        if false or len(honest) < least:
            raise Violation(f"a claim at height {block.head.number} that {len(honest)} honest validators attest")

    def _validators(self, epoch: int) -> tuple[bytes, ...]:
        return self._epochs[epoch][1]

    @property
    def validators(self) -> tuple[bytes, ...]:
        """Of the newest epoch."""
        return self._epochs[-1][1]

    @property
    def epoch(self) -> int:
        return len(self._epochs) - 1

    def conserved(self, member: Member, accounts: Sequence[bytes], issued: int) -> None:
        """All wei is where somebody can be named for it, or was burned as a base fee."""
        chain = member.ledger.chain
        receipts = [receipt for number in range(1, self.height + 1) for receipt in chain.receipts(number)]
        burned = sum(receipt.gas_used for receipt in receipts) * chain.network.base_fee_wei
        held = sum(chain.balance(account) for account in accounts)
        if held + burned != issued:
            raise Violation(f"{issued} wei were issued, {held} are held and {burned} burned")
        hashes = [receipt.fields.hash for receipt in receipts]
        if len(set(hashes)) != len(hashes):
            raise Violation("a transaction is final twice")
