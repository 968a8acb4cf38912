"""flnode without one of its defences: of the contract, of what validators check, or of what a worker does.

Everybody in the run has the variant, honest ones included: it is what flnode would be without that defence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

import chain.contracts
from chain import masking
from learner import manifest as manifests
from node.roles import attestor
from node.roles import common as c
from tests.contracts.changed import Change, compiled
from tests.sim.jobs import SIZE
from tests.sim.work import Worksite

Patch = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Variant:
    """
    Attributes:
        lacks: what is missing, in words.
        contract: changes of chain/contracts/*.vy.
        node: changes of the Python that all nodes of the run share.
    """

    lacks: str
    contract: tuple[Change, ...] = ()
    node: Patch = lambda _: None

    def place(self, patch: pytest.MonkeyPatch) -> None:
        """Make it what every node runs, until `patch` is undone."""
        if self.contract:
            code, others = compiled(self.contract), chain.contracts._code
            patch.setattr(chain.contracts, "_code", lambda name: code if name == "replicated" else others(name))
        self.node(patch)


# ---- what validators check ----


def _believe(patch: pytest.MonkeyPatch) -> None:
    def check(site: Worksite, effect: attestor.CheckClaim, _ciphertext: bytes) -> None:
        site._feed("attestor", attestor.ClaimChecked(effect.digest, True))

    patch.setattr(Worksite, "_checked", check)


def _believe_what_is_missing(patch: pytest.MonkeyPatch) -> None:
    perform = Worksite._perform_attestor

    def unseen(site: Worksite, effect: object) -> None:
        if isinstance(effect, attestor.CheckClaim) and site.blobs.find(site.name, effect.claim.ciphertext) is None:
            site._feed("attestor", attestor.ClaimChecked(effect.digest, True))
        else:
            perform(site, effect)

    patch.setattr(Worksite, "_perform_attestor", unseen)


# ---- the mask ----


def _stream_without_context(patch: pytest.MonkeyPatch) -> None:
    apply = masking.apply_mask
    patch.setattr(masking, "apply_mask", lambda data, _ctx, mask: apply(data, bytes(32), mask))


def _mask_is_the_pad(patch: pytest.MonkeyPatch) -> None:
    """The scheme that this one descends from: S is as long as M, and C = M xor S."""
    sign, apply = masking.sign_mask, masking.apply_mask

    def pad(key: bytes, chain_id: int, contract: bytes, ctx: bytes, r: bytes) -> bytes:
        return apply(bytes(SIZE), ctx, sign(key, chain_id, contract, ctx, r))

    patch.setattr(masking, "sign_mask", pad)
    patch.setattr(masking, "apply_mask", lambda data, _ctx, mask: bytes(d ^ m for d, m in zip(data, mask, strict=True)))


def _context_without(*parts: str) -> Patch:
    """Contexts, and with chain or contract the domain of the signature, that leave something out."""

    def patch_it(patch: pytest.MonkeyPatch) -> None:
        context, digest = masking.context, masking.mask_digest

        def shorter(chain_id: int, contract: bytes, job: int, round_: int, attempt: int, worker: bytes) -> bytes:
            named = {"chain": chain_id, "contract": contract, "job": job, "round": round_, "attempt": attempt}
            named |= {part: bytes(20) if part == "contract" else 0 for part in parts}
            return context(*named.values(), worker)  # type: ignore[arg-type]

        def shorter_digest(chain_id: int, contract: bytes, ctx: bytes, r: bytes) -> bytes:
            chain_id = 0 if "chain" in parts else chain_id
            return digest(chain_id, bytes(20) if "contract" in parts else contract, ctx, r)

        patch.setattr(masking, "context", shorter)
        patch.setattr(masking, "mask_digest", shorter_digest)

    return patch_it


# ---- what workers look at ----


def _takes_any_job(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Worksite, "_judged", lambda _site, effect, blob: c.ManifestReady(effect.job, manifests.decode(blob)))


# ---- passages of the contract ----

_SIGNED = '    assert mask_rules._signed_by(msg.sender, ctx, r, mask), "mask is not signed by the caller"'
_S_BOUND = '    assert keccak256(mask) == seat.s_hash, "mask is not the committed one"\n'
_COMMIT_PHASE = 'assert self.rounds[key].phase == COMMIT, "round takes no commits"'
_ANY_PHASE = "assert self.rounds[key].phase == COMMIT or self.rounds[key].phase == REVEAL"
_CONTEXT = "abi_encode(CTX_TYPE, chain.id, self, job, round, attempt, worker)"
_DOMAIN = "abi_encode(DOMAIN_TYPE, DOMAIN_NAME, DOMAIN_VERSION, chain.id, self)"
_NO_JOB: Change = (_CONTEXT, "abi_encode(CTX_TYPE, chain.id, self, empty(uint256), round, attempt, worker)")
_NO_ROUND: Change = (_CONTEXT, "abi_encode(CTX_TYPE, chain.id, self, job, empty(uint256), attempt, worker)")
_NO_CHAIN = (
    (_CONTEXT, "abi_encode(CTX_TYPE, empty(uint256), self, job, round, attempt, worker)"),
    (_DOMAIN, "abi_encode(DOMAIN_TYPE, DOMAIN_NAME, DOMAIN_VERSION, empty(uint256), self)"),
)
_NO_CONTRACT = (
    (_CONTEXT, "abi_encode(CTX_TYPE, chain.id, empty(address), job, round, attempt, worker)"),
    (_DOMAIN, "abi_encode(DOMAIN_TYPE, DOMAIN_NAME, DOMAIN_VERSION, chain.id, empty(address))"),
)

CLAIMS_UNCHECKED = Variant("validators attest what they have not recomputed", node=_believe)
MISSING_IS_TRUE = Variant("validators attest what they could not fetch", node=_believe_what_is_missing)
ANYBODYS_MASK = Variant(
    "the mask need not be the committer's signature, nor the stream's key bound to the slot",
    ((_SIGNED, "    pass"),),
    _stream_without_context,
)
ORIGINAL_SCHEME = Variant(
    "the scheme as originally described: S is the pad itself, and the commit does not bind it",
    ((_SIGNED, "    pass"), (_S_BOUND, ""), ("SIZE: constant(uint256) = 65", "SIZE: constant(uint256) = 4096")),
    _mask_is_the_pad,
)
NO_ROUND = Variant("the slot's context does not name the round", (_NO_ROUND,), _context_without("round"))
NO_JOB = Variant("the slot's context does not name the job", (_NO_JOB,), _context_without("job"))
NO_CONTRACT = Variant("context and signature do not name the contract", _NO_CONTRACT, _context_without("contract"))
NO_CHAIN = Variant("context and signature do not name the chain", _NO_CHAIN, _context_without("chain"))
COMMITS_AGAIN = Variant(
    "commits are taken beside the reveals, and a second one replaces the first",
    ((_COMMIT_PHASE, _ANY_PHASE), ('assert state == DRAWN, "already committed"', "pass")),
)
COMMITS_LATE = Variant("commits are taken beside the reveals", ((_COMMIT_PHASE, _ANY_PHASE),))
REVEALS_LATE = Variant(
    "reveals are taken when the round is closed",
    (('assert REVEAL <= phase and phase <= SETTLED, "round takes no reveals"', "assert phase >= REVEAL"),),
)
WITHHOLDING_IS_FREE = Variant(
    "a void round gives back every stake", (("keeps = state >= asked", "keeps = state >= DRAWN"),)
)
EVERY_UPDATE_PAID = Variant(
    "every update that was revealed is paid",
    (
        (
            "keeps = state == REVEALED and self.seats[key][worker].update == self.rounds[key].winner",
            "keeps = state == REVEALED",
        ),
        (
            "unearned: uint256 = self.rounds[key].slots - self.votes[key][self.rounds[key].winner]",
            "unearned: uint256 = self.rounds[key].slots - self.rounds[key].reveals",
        ),
    ),
)
FIRST_TWO_WIN = Variant(
    "a digest wins with more than half of the reveals so far, instead of the slots",
    (("majority: bool = 2 * votes > self.rounds[key].slots", "majority: bool = 2 * votes > self.rounds[key].reveals"),),
)
OWNER_VOIDS = Variant(
    "a round that has a winner can be closed before it is paid",
    (('assert self.rounds[key].grace_until == 0, "finalise first"', "pass"),),
)
CANCEL_AT_ONCE = Variant(
    "cancelling ends the job at once, the open round with it",
    (
        (
            "    if self.jobs[job].state == WAITING:\n        self._end(job, CANCELLED)\n",
            "    if self.jobs[job].state == WAITING:\n        self._end(job, CANCELLED)\n"
            "    else:\n        self._void(job, self.jobs[job].settled + 1, self.jobs[job].attempt)\n",
        ),
    ),
)
FORFEITS_TO_OWNER = Variant(
    "forfeited stakes go to the job's owner",
    (("    self._burn(burned)", "    send(self.jobs[job].owner, burned)"),),
)
ANY_JOB_TAKEN = Variant("workers enrol without looking whether the job can be done", node=_takes_any_job)
FIRST_COME = Variant(
    "slots go to whoever enrolled first",
    (("        if count > slots:\n", "        if count > slots and empty(bool):\n"),),
)
MASK_UNBOUND = Variant("the commit does not bind S", ((_S_BOUND, ""),))
EITHER_SIGNATURE = Variant(
    "the commit does not bind S, and of a signature's two forms both are taken",
    ((_S_BOUND, ""), ("if v > 1 or s > S_MAX:", "if v > 1:")),
)
ANYBODY_CANCELS = Variant(
    "anybody may cancel a job",
    (('assert msg.sender == self.jobs[job].owner, "only the owner may cancel"', "pass"),),
)
JOIN_ANY_TIME = Variant(
    "workers join and leave while a round that has a winner waits to be finalised",
    (('assert not foretold, "slots are about to be drawn"', "pass"),),
)
