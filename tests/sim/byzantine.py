"""A validator that runs the honest code and lies beside it, in every way that its key allows."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import chain.header as rules
from chain import certificate, claims, consensus, evm, messages
from chain.types import FINALISE, NO_DIGEST, NOTARISE, TIMEOUT, Block, ChainError, Vote, VoteKind
from node import wire
from node.validator import Validator
from tests.chain.chain_kit import CHAIN_ID, NOW, VALIDATORS
from tests.node.ledger_world import ADDRESS_OF, Member, World

LIES = ("equivocates", "corrupts", "withholds", "selective", "silent", "stale", "perjures", "unattested", "misleads")
KEPT_MAX = 100
WONDER = 1_000_000


class Liar:
    def __init__(self, name: str, world: World, rng: random.Random, lies: frozenset[str] | None = None) -> None:
        self.name, self._world, self._rng = name, world, rng
        self.lies = frozenset(rng.sample(LIES, rng.randrange(1, 4))) if lies is None else lies
        self._key = VALIDATORS[int(name.removeprefix("validator-"))]
        self._done: set[object] = set()
        self._kept: list[bytes] = []  # what it said or heard, to say again

    @property
    def _member(self) -> Member:
        return self._world.members[self.name]

    @property
    def _validator(self) -> Validator | None:
        return self._member.ledger.validator

    # ---- what its honest code says ----------------------------------------------------------------------------------
    def twist(self, target: str, kind: str, payload: bytes) -> list[bytes]:
        """What leaves instead."""
        if kind == wire.CONSENSUS:
            return self._twist_consensus(target, payload)
        if kind == wire.HEAD and "misleads" in self.lies:
            head = wire.decode(payload, wire.Head)
            return [wire.encode(wire.Head(head.number + self._rng.choice((1, WONDER)), head.digest))]
        if kind == wire.BLOCKS and "misleads" in self.lies:
            return self._twist_blocks(payload)
        if kind in (wire.ATTESTATIONS, "gossip:refusals") and "perjures" in self.lies:
            items = wire.decode(payload, wire.Attestations).items
            lies = [self._perjure(each) if self._rng.random() < 0.5 else each for each in items]
            return [wire.encode(wire.Attestations(tuple(lies)))]
        return [payload]

    def _twist_consensus(self, target: str, payload: bytes) -> list[bytes]:
        self._kept = [*self._kept[-KEPT_MAX:], payload]
        if "silent" in self.lies or ("selective" in self.lies and self._rng.random() < 0.4):
            return []
        if self.lies & {"withholds", "corrupts"}:
            message = messages.decode(payload)
            if isinstance(message, consensus.Proposal):
                if "withholds" in self.lies and self._rng.random() < 0.6:
                    return []
                if "corrupts" in self.lies and self._rng.random() < 0.7:
                    return [messages.encode(self._corrupt(message))]
        return [payload]

    def _corrupt(self, proposal: consensus.Proposal) -> consensus.Proposal:
        """The same block with another state root, sealed and voted for as it should be."""
        decoded = evm.decode_block(proposal.block.payload, self._world.network.gas_limit, proposal.block.digest)
        header = decoded.header.copy(state_root=self._rng.randbytes(32))
        sealed = rules.seal(header.copy(extra_data=header.extra_data[: -rules.SIGNATURE_BYTES] + bytes(65)), self._key)
        block = rules.block_of(sealed, evm.encode_block(sealed, decoded.transactions))
        return self._propose(replace(block, attestations=proposal.block.attestations), proposal.certificates)

    def _twist_blocks(self, payload: bytes) -> list[bytes]:
        answer = wire.decode(payload, wire.Blocks)
        items = list(answer.items)
        match self._rng.randrange(6) if items else 0:
            case 0:
                return []
            case 1:
                items = [(block, None) for block, _ in items]
            case 2:
                items = [(self._rng.randbytes(len(block)), proof) for block, proof in items]
            case 3:
                items = items[1:]
            case 4:
                items = [(block, self._forge(proof)) for block, proof in items]
            case 5:
                items = []
        return [wire.encode(wire.Blocks(answer.first, tuple(items)))]

    def _forge(self, proof: bytes | None) -> bytes | None:
        if proof is None:
            return None
        true = messages.decode_certificate(proof)
        own = self._vote(true.epoch, true.view, true.kind, true.digest, 0).signature
        signatures = tuple((voter, own) for voter, _ in true.signatures)
        return messages.encode_certificate(replace(true, signatures=signatures))

    def _perjure(self, item: wire.WireAttestation) -> wire.WireAttestation:
        return wire.to_wire(claims.sign_attestation(self._key, item.signer, item.claim, not item.verdict))

    # ---- what it adds -----------------------------------------------------------------------------------------------
    def heard(self, source: str, kind: str, payload: bytes) -> Iterator[tuple[str, bytes]]:
        """(to whom, what) it says upon a message, beside what its honest code says."""
        validator = self._validator
        if "unattested" in self.lies:
            self._believe_everything()
        if kind != wire.CONSENSUS or validator is None:
            return
        others = self._world.peers_of(self.name)
        if "stale" in self.lies and self._rng.random() < 0.1 and self._kept and others:
            yield self._rng.choice(others), self._rng.choice(self._kept)
        if "equivocates" in self.lies:
            message = messages.decode(payload)
            if messages.is_of_epoch(message, validator.epoch.number):
                for vote in messages.votes_of(message):
                    yield from self._echo(validator, vote, others)
                yield from self._equivocate(validator, others)

    def _believe_everything(self) -> None:
        """It builds as if every claim that it knows of were attested, and puts nothing beside its blocks."""
        attested = self._member.ledger.attested
        attested.quorum = lambda _claim: True  # type: ignore[method-assign]
        attested.beside = lambda _claims: ()  # type: ignore[method-assign]

    def _vote(self, epoch: int, view: int, kind: VoteKind, digest: bytes, index: int) -> Vote:
        genesis = self._member.ledger.chain.genesis_digest
        signature = certificate.sign_vote(self._key, CHAIN_ID, genesis, epoch, view, kind, digest)
        return Vote(epoch, view, kind, digest, index, signature)

    def _propose(self, block: Block, reasons: tuple[consensus.Certificate, ...]) -> consensus.Proposal:
        index = self._member.ledger.chain.epochs[block.epoch].validators.index(ADDRESS_OF[self.name])
        return consensus.Proposal(block, self._vote(block.epoch, block.view, NOTARISE, block.digest, index), reasons)

    def _echo(self, validator: Validator, vote: Vote, others: list[str]) -> Iterator[tuple[str, bytes]]:
        """Vote for whatever is voted on, of every kind, each to some only."""
        if vote.kind == TIMEOUT or (vote.epoch, vote.view, vote.digest) in self._done:
            return
        self._done.add((vote.epoch, vote.view, vote.digest))
        index = validator.epoch.validators.index(ADDRESS_OF[self.name])
        for kind in (NOTARISE, FINALISE, TIMEOUT):
            digest = NO_DIGEST if kind == TIMEOUT else vote.digest
            mine = messages.encode(consensus.VoteMessage(self._vote(vote.epoch, vote.view, kind, digest, index)))
            yield from ((other, mine) for other in others if self._rng.random() < 0.6)

    def _equivocate(self, validator: Validator, others: list[str]) -> Iterator[tuple[str, bytes]]:
        """In an own view: two blocks, on parents of any age, with whatever the pool holds, each to some."""
        machine, chain, ledger = validator.machine, self._member.ledger.chain, self._member.ledger
        view, epoch = machine.view, validator.epoch.number
        if machine.proposer(view) != machine.me or (epoch, view) in self._done:
            return
        self._done.add((epoch, view))
        parents = [machine.tip, machine.tip, *(block for block in machine.blocks.values() if block.view < view)]
        half = {other for other in others if self._rng.random() < 0.5}
        for first in (True, False):
            parent = self._rng.choice(parents)
            now = NOW + int(self._world.now) + (not first)
            try:
                block = chain.build(
                    parent.digest, view, epoch, ledger.mempool.candidates() if first else (), now, self._key
                )
            except ChainError:  # it has not executed that parent
                continue
            verdicts = [each for digest in self._claims(block) for each in ledger.attested.of(digest)]
            beside = tuple(each for each in verdicts if each.verdict)
            proposal = self._propose(replace(block, attestations=beside), machine.certificates_above(0, 0)[-60:])
            payload = messages.encode(proposal)
            yield from ((o, payload) for o in others if (o in half) == first or self._rng.random() < 0.2)

    def _claims(self, block: Block) -> list[bytes]:
        chain = self._member.ledger.chain
        return [chain.claim_digest(claim) for claim in chain.claims(block.digest)]
