"""Events of a small job, for tests of what is decided from them."""

from __future__ import annotations

from chain.contracts import bindings as b
from learner.manifest import Goal, Manifest
from learner.presets import mlp
from node.jobs import Jobs, Key, fold

OWNER = b"\x0f" * 20
WORKERS = tuple(bytes([n]) * 20 for n in (1, 2, 3))
TERMS = b.Terms(
    reward=10, stake=100, slots=3, workers_min=3, rounds_max=5, attempts_max=3, commit_window_s=20,
    reveal_window_s=20, last_call_s=5, grace_s=30, deadline=1 << 40, auto_finalise=False,
)  # fmt: skip
MANIFEST = Manifest(
    model=mlp((4, 3, 2)), dataset=b"\xda" * 32, dataset_size=100, batch_size=2, steps=3, learning_rate=0.1,
    init_seed=bytes(32), goal=Goal(0.9),
)  # fmt: skip
BASE, SEED = b"\xba" * 32, b"\x5e" * 32
GOOD, BAD = b"\x60" * 32, b"\x0b" * 32
KEY = Key(1, 1, 1)
POSTED = b.JobPosted(1, OWNER, MANIFEST.digest(), BASE, MANIFEST.update_size(), SEED, TERMS)


def ciphertext(worker: bytes) -> bytes:
    return b"\xc0" + worker + bytes(11)


def opened(key: Key = KEY, base: bytes = BASE, workers: tuple[bytes, ...] = WORKERS, at: int = 1000) -> b.RoundOpened:
    return b.RoundOpened(*key, base, b"\xbb" * 32, workers, at + TERMS.commit_window_s)


def committed(worker: bytes, key: Key = KEY) -> b.Committed:
    return b.Committed(key.job, key.round, worker, key.attempt, ciphertext(worker), b"\x01" * 32, b"\x02" * 32)


def reveal_opened(key: Key = KEY, commits: int = 3, at: int = 1000) -> b.RevealOpened:
    return b.RevealOpened(*key, commits, at + TERMS.reveal_window_s)


def revealed(worker: bytes, update: bytes = GOOD, key: Key = KEY) -> b.Revealed:
    return b.Revealed(
        key.job, key.round, worker, key.attempt, b"\x0c" * 32, ciphertext(worker), 10, b"\x03" * 32, bytes(65), update
    )


def majority(key: Key = KEY, at: int = 1000) -> b.MajorityReached:
    return b.MajorityReached(*key, GOOD, 2, at + TERMS.grace_s)


def job_of(*events: b.Event, start: Jobs | None = None) -> Jobs:
    """All events in one block; with no `start`, after the job was posted and everybody enrolled."""
    if start is None:
        start = fold(Jobs(), [POSTED, *(b.Enrolled(1, worker, 1000) for worker in WORKERS)], 1, 999)
    return fold(start, events, start.number + 1, 1000)
