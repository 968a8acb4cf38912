"""What an adversary is here: a pure function of what it can see to what it does next.

    program(scene) -> acts

It keeps no diary. Like the honest roles it decides anew from the final chain each time, and is called whenever the
chain or the clock went on; an act has a tag and is done once. Who carries acts out is the simulator
(tests/adversaries/arena.py) or a real node (tests/adversaries/den.py), so one program runs in both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import rlp
from eth_hash.auto import keccak

from chain import masking
from chain.contracts import REPLICATED
from chain.contracts import bindings as b
from chain.contracts.calls import Call
from chain.types import RevealClaim, Transaction
from node import unixfs
from node.jobs import COMMIT, REVEAL, SETTLED, Jobs, JobView, Key, RoundView

DEPOSIT_STAKES = 8


@dataclass(frozen=True, slots=True)
class Send:
    """A transaction, once; with `again`, anew whenever it has failed. `claim`: what it states about blobs."""

    tag: str
    call: Call
    claim: RevealClaim | None = None
    again: bool = False


@dataclass(frozen=True, slots=True)
class Serve:
    """Let everybody have a blob."""

    content: bytes


Act = Send | Serve


@dataclass(frozen=True, slots=True)
class Scene:
    """What one identity of an adversary sees.

    Attributes:
        jobs: the read model of the final chain.
        job: number of the job that it is after; 0: none yet.
        reveals: every reveal that ever became final, and what was revealed elsewhere, if it knows of that.
        pending: transactions of others that wait in its node's pool.
        blob: a blob by digest; None while it is not here.
        work: a round's training, really done; None while it is not. With `steps`, so many instead of the job's.
    """

    jobs: Jobs
    job: int
    chain_id: int
    key: bytes
    address: bytes
    reveals: Sequence[b.Revealed]
    pending: Sequence[Transaction]
    blob: Callable[[bytes], bytes | None]
    work: Callable[[RoundView, int | None], bytes | None]

    @property
    def view(self) -> JobView | None:
        return self.jobs.by_id.get(self.job)

    @property
    def seats(self) -> Iterator[RoundView]:
        """The open rounds of its job in which it holds a slot, oldest first."""
        if self.view is not None:
            yield from (view for _, view in sorted(self.view.open.items()) if self.address in view.workers)

    def secrets(self, key: Key) -> tuple[bytes, bytes, bytes]:
        """(ctx, R, S) as an honest worker would have them."""
        ctx = masking.context(self.chain_id, REPLICATED, *key, self.address)
        r = masking.derive_r(self.key, ctx)
        return ctx, r, masking.sign_mask(self.key, self.chain_id, REPLICATED, ctx, r)

    def size(self) -> int:
        assert self.view is not None
        return self.view.posted.update_size


Program = Callable[[Scene], Iterator[Act]]


def made_up(scene: Scene, what: object) -> bytes:
    """Bytes of the job's size that cost nothing, always the same for the same question."""
    return hashlib.shake_256(repr(what).encode()).digest(scene.size())


def enrol(scene: Scene) -> Iterator[Act]:
    job = scene.view
    if job is not None and job.ended is None and scene.address not in job.records:
        yield Send(f"enrol {scene.job}", b.enrol(scene.job, DEPOSIT_STAKES * job.posted.terms.stake), again=True)


def commit(key: Key, ciphertext: bytes, r_hash: bytes, s_hash: bytes, which: str = "") -> Send:
    return Send(f"commit{which} {tuple(key)}", b.commit(*key, ciphertext, r_hash, s_hash))


def reveal(scene: Scene, view: RoundView, r: bytes, mask: bytes, update: bytes, which: str = "") -> Send:
    """Reveal what was committed to as `update`, whatever it opens to."""
    mine = view.commits.get(scene.address)
    ctx = masking.context(scene.chain_id, REPLICATED, *view.key, scene.address)
    claim = mine and RevealClaim(REPLICATED, *view.key, scene.address, ctx, mine.ciphertext, scene.size(), mask, update)
    return Send(f"reveal{which} {tuple(view.key)}", b.reveal(*view.key, r, mask, update), claim)


def hand_in(scene: Scene, view: RoundView, update: bytes | None, serve: bool = True) -> Iterator[Act]:
    """Follow the protocol to the letter with an update of whatever origin; None: it has none yet."""
    if update is None:
        return
    ctx, r, mask = scene.secrets(view.key)
    if view.phase == COMMIT and scene.address not in view.commits:
        ciphertext = masking.apply_mask(update, ctx, mask)
        if serve:
            yield Serve(ciphertext)
        yield commit(view.key, unixfs.digest_of(ciphertext), keccak(r), keccak(mask))
    elif may_reveal(scene, view):
        yield reveal(scene, view, r, mask, unixfs.digest_of(update))


def may_reveal(scene: Scene, view: RoundView) -> bool:
    return view.phase in (REVEAL, SETTLED) and scene.address in view.commits and scene.address not in view.reveals


def others(scene: Scene, found: Mapping[bytes, b.Committed] | Mapping[bytes, b.Revealed]) -> list[bytes]:
    """Who else is in there, in order of address."""
    return sorted(worker for worker in found if worker != scene.address)


def opened(scene: Scene, view: RoundView) -> tuple[b.Revealed, bytes] | None:
    """Somebody else's reveal of this round and the update that it made public."""
    for worker in others(scene, view.reveals):
        shown = view.reveals[worker]
        ciphertext = scene.blob(shown.ciphertext)
        if ciphertext is not None:
            return shown, masking.apply_mask(ciphertext, shown.ctx, shown.mask)
    return None


def call_of(raw: bytes) -> Call | None:
    """What a pooled transaction calls, if flnode signed it (EIP-1559)."""
    if raw[:1] != b"\x02":
        return None
    fields = rlp.decode(raw[1:])
    to, value, data, gas = fields[5], fields[6], fields[7], fields[4]
    return Call(to, int.from_bytes(value, "big"), data, int.from_bytes(gas, "big"))
