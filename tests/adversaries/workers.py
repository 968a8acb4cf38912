"""Dishonest workers: each wants to be paid for a slot without training for it, or to have others lose theirs."""

from __future__ import annotations

from collections.abc import Iterator

from eth_hash.auto import keccak

from chain import masking
from chain.contracts import bindings as b
from node import unixfs
from node.jobs import COMMIT, Key, RoundView
from tests.adversaries.program import (
    Act,
    Program,
    Scene,
    Send,
    Serve,
    call_of,
    commit,
    enrol,
    hand_in,
    made_up,
    may_reveal,
    opened,
    others,
    reveal,
)


def with_update(update: str) -> Program:
    """Follows the protocol to the letter with a certain update: see `_update`."""

    def program(scene: Scene) -> Iterator[Act]:
        yield from enrol(scene)
        for view in scene.seats:
            yield from hand_in(scene, view, _update(scene, view, update))

    return program


def _update(scene: Scene, view: RoundView, update: str) -> bytes | None:
    match update:
        case "the work's result":  # an identity of somebody who did the work, or hands out what somebody else did
            return scene.work(view, None)
        case "one step":
            return scene.work(view, 1)
        case "the last weights":
            return scene.blob(view.base)
        case "its own":
            return made_up(scene, (view.key, scene.address))
        case "what colluders agreed on":
            return made_up(scene, view.key)
    raise AssertionError(update)


def copies_a_reveal(scene: Scene) -> Iterator[Act]:
    """Commits to rubbish of its own and, with its own secrets, claims what somebody else revealed."""
    yield from enrol(scene)
    for view in scene.seats:
        _, r, mask = scene.secrets(view.key)
        yield from _commit_to(scene, view, made_up(scene, "rubbish"), r, mask)
        yield from _claim_anothers(scene, view, r, mask)


def copies_a_ciphertext(scene: Scene) -> Iterator[Act]:
    """Commits to somebody's ciphertext under its own secrets and claims what that worker reveals."""
    yield from enrol(scene)
    for view in scene.seats:
        _, r, mask = scene.secrets(view.key)
        for worker in others(scene, view.commits)[:1]:
            if view.phase == COMMIT and scene.address not in view.commits:
                yield commit(view.key, view.commits[worker].ciphertext, keccak(r), keccak(mask))
        yield from _claim_anothers(scene, view, r, mask)


def copies_a_commit(scene: Scene) -> Iterator[Act]:
    """Commits to all that somebody else committed to, and reveals what that worker reveals."""
    yield from enrol(scene)
    for view in scene.seats:
        for worker in others(scene, view.commits)[:1]:
            theirs = view.commits[worker]
            if view.phase == COMMIT and scene.address not in view.commits:
                yield commit(view.key, theirs.ciphertext, theirs.r_hash, theirs.s_hash)
        mine = view.commits.get(scene.address)
        for worker in others(scene, view.reveals):
            shown = view.reveals[worker]
            if mine is not None and shown.ciphertext == mine.ciphertext and may_reveal(scene, view):
                yield reveal(scene, view, shown.r, shown.mask, shown.update_digest)


def solves_for_a_key(scene: Scene) -> Iterator[Act]:
    """Commits to rubbish, sees M, and opens its commit with S = C xor M: the hole of the original scheme."""
    yield from enrol(scene)
    for view in scene.seats:
        _, r, mask = scene.secrets(view.key)
        rubbish = made_up(scene, "rubbish")
        yield from _commit_to(scene, view, rubbish, r, mask)
        seen = opened(scene, view)
        if seen is not None and may_reveal(scene, view):
            solved = bytes(c ^ m for c, m in zip(rubbish, seen[1], strict=True))
            yield reveal(scene, view, r, solved, seen[0].update_digest)


def reuses_a_mask_of(place: str) -> Program:
    """Opens somebody's ciphertext with a mask that this worker revealed in another round of the job, or elsewhere, and
    hands that in. It joins when the first round is open, or once there is such a mask, and takes the oldest.
    """

    def program(scene: Scene) -> Iterator[Act]:
        same = place == "another round"
        found = [each for each in scene.reveals if (each.job == scene.job) == same]
        if not found and not (same and scene.view is not None and scene.view.current is not None):
            return
        yield from enrol(scene)
        for view in scene.seats:
            masks = {each.worker: each.mask for each in reversed(found) if (each.job, each.round) != view.key[:2]}
            update = None
            for worker in others(scene, view.commits):
                ciphertext = scene.blob(view.commits[worker].ciphertext)
                if worker in masks and ciphertext is not None:
                    ctx = masking.context(scene.chain_id, b.REPLICATED, *view.key, worker)
                    update = masking.apply_mask(ciphertext, ctx, masks[worker])
                    break
            yield from hand_in(scene, view, update)

    return program


def malleates(scene: Scene) -> Iterator[Act]:
    """Commits honestly to what it made up, then opens the commit by the other signature of the same key."""
    yield from enrol(scene)
    for view in scene.seats:
        ctx, r, mask = scene.secrets(view.key)
        rubbish = made_up(scene, "rubbish")
        yield from _commit_to(scene, view, rubbish, r, mask)
        if may_reveal(scene, view):
            other = malleated(mask)
            yield reveal(scene, view, r, other, unixfs.digest_of(masking.apply_mask(rubbish, ctx, other)))


def malleated(mask: bytes) -> bytes:
    """The other signature that recovers to the same key."""
    s = masking.SECP256K1_ORDER - int.from_bytes(mask[32:64], "big")
    return mask[:32] + s.to_bytes(32, "big") + bytes([mask[64] ^ 1])


def commits_again(scene: Scene) -> Iterator[Act]:
    """Commits to rubbish in time, and to somebody's update as soon as that is public."""
    yield from enrol(scene)
    for view in scene.seats:
        _, r, mask = scene.secrets(view.key)
        yield from _commit_to(scene, view, made_up(scene, "rubbish"), r, mask)
        yield from _commit_to_what_is_public(scene, view)


def commits_late(scene: Scene) -> Iterator[Act]:
    """Waits with its commit until somebody has revealed."""
    yield from enrol(scene)
    for view in scene.seats:
        yield from _commit_to_what_is_public(scene, view)


def _commit_to_what_is_public(scene: Scene, view: RoundView) -> Iterator[Act]:
    """Commit to what somebody revealed, as if it were the own work, and reveal it."""
    seen = opened(scene, view)
    if seen is None:
        return
    ctx, r, mask = scene.secrets(view.key)
    ciphertext = masking.apply_mask(seen[1], ctx, mask)
    digest = unixfs.digest_of(ciphertext)
    yield Serve(ciphertext)
    mine = view.commits.get(scene.address)
    if mine is None or mine.ciphertext != digest:
        yield commit(view.key, digest, keccak(r), keccak(mask), " late")
    elif may_reveal(scene, view):
        yield reveal(scene, view, r, mask, seen[0].update_digest)


def reveals_late(scene: Scene) -> Iterator[Act]:
    """Does its work, but holds it back until the round is closed, and then has itself paid before the others are."""
    yield from enrol(scene)
    job = scene.view
    if job is None:
        return
    for view in scene.seats:
        if view.phase == COMMIT:
            yield from hand_in(scene, view, scene.work(view, None))
    for settled in job.history:
        key = Key(job.job, settled.round, settled.attempt)
        if key not in job.open:
            _, r, mask = scene.secrets(key)
            yield Send(f"reveal {tuple(key)}", b.reveal(*key, r, mask, settled.update))
            yield Send(f"withdraw {tuple(key)}", b.withdraw(job.job), again=True)


def withholds(scene: Scene) -> Iterator[Act]:
    """Commits, and reveals nothing."""
    yield from enrol(scene)
    for view in scene.seats:
        _, r, mask = scene.secrets(view.key)
        yield from _commit_to(scene, view, made_up(scene, "rubbish"), r, mask)


def reveals_without_data(scene: Scene) -> Iterator[Act]:
    """Commits to a digest of nothing and claims what somebody else revealed."""
    yield from enrol(scene)
    for view in scene.seats:
        _, r, mask = scene.secrets(view.key)
        if view.phase == COMMIT and scene.address not in view.commits:
            yield commit(view.key, keccak(b"nothing" + scene.address), keccak(r), keccak(mask))
        yield from _claim_anothers(scene, view, r, mask)


def serves_nobody(scene: Scene) -> Iterator[Act]:
    """Does its work and hands it in, but lets nobody have the ciphertext."""
    yield from enrol(scene)
    for view in scene.seats:
        yield from hand_in(scene, view, scene.work(view, None), serve=False)


def runs_in_front(scene: Scene) -> Iterator[Act]:
    """Copies every call about its job that waits in its node's pool, sends it as its own, and pays to come first."""
    for each in scene.pending:
        call = call_of(each.raw)
        about = None if call is None else int.from_bytes(call.data[4:36], "big")
        if call is not None and call.to == b.REPLICATED and about == scene.job:
            yield Send(f"copy of {each.hash.hex()}", call)


def _commit_to(scene: Scene, view: RoundView, content: bytes, r: bytes, mask: bytes) -> Iterator[Act]:
    if view.phase == COMMIT and scene.address not in view.commits:
        yield Serve(content)
        yield commit(view.key, unixfs.digest_of(content), keccak(r), keccak(mask))


def _claim_anothers(scene: Scene, view: RoundView, r: bytes, mask: bytes) -> Iterator[Act]:
    for worker in others(scene, view.reveals)[:1]:
        if may_reveal(scene, view):
            yield reveal(scene, view, r, mask, view.reveals[worker].update_digest)
