"""Batches that a job lists itself: bytes, rows of attempts, and the same result as an independent implementation's."""

from __future__ import annotations

import array
import hashlib
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner import assigned, batch_file, batch_list, data
from learner.batches import batches
from learner.errors import InvalidBatches
from learner.exact import philox
from learner.machine import CPU
from learner.manifest import Batches, Manifest
from learner.protocol import Train
from learner.train import initial_bytes, load_samples, train_round
from learner.workbench import Workbench
from tests.learner import numpy_twin as twin
from tests.learner.examples import DIGITS, digits_manifest, sha256

ROUNDS, STEPS, SIZE = 3, 4, 32
LIST = batch_list.encode(
    array.array("I", [random.Random(at).randrange(1437) for at in range(ROUNDS * STEPS * SIZE)]), STEPS, SIZE
)
JOB = digits_manifest(steps=STEPS, batch_size=SIZE, batches=Batches(hashlib.sha256(LIST).digest(), len(LIST)))
GOLDEN = "9999f5b05164ef48d01716a4ac634438f9a594199401f72fc334367ce2ed2a0d"


def row(number: int, attempt: int) -> bytes:
    return batch_list.row(LIST, STEPS, SIZE, number, attempt)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.randoms())
@settings(max_examples=50, deadline=None)
def test_a_list_survives_its_bytes_and_every_round_and_attempt_has_its_row(
    rounds: int, steps: int, size: int, chance: random.Random
) -> None:
    numbers = array.array("I", [chance.randrange(99) for _ in range(rounds * steps * size)])
    content = batch_list.encode(numbers, steps, size)
    assert batch_list.rounds_in(len(content), steps, size) == rounds
    batch_list.check(content, steps, size, 99)
    cube = np.array(numbers).reshape(rounds, steps, size)
    for number in range(1, 2 * rounds + 1):
        for attempt in range(1, 2 * steps + 1):
            expected = np.roll(cube[(number - 1) % rounds], -(attempt - 1), axis=0)
            found = batch_list.row(content, steps, size, number, attempt)
            assert list(batch_list.indices_of(found, steps, size, 99)) == expected.reshape(-1).tolist()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (LIST[:19], "inside the header"),
        (b"x" + LIST[1:], "wrong magic"),
        (LIST[:-4], "are not the 3 rounds"),
        (LIST + LIST[20 : 20 + 4 * STEPS * SIZE], "are not the 3 rounds"),
        (LIST[:8] + bytes(4) + LIST[12:20], "are not the 0 rounds"),
        (LIST[:12] + bytes([STEPS + 1, 0, 0, 0]) + LIST[16:], "lists 5 steps of 32 samples, the job has 4 steps of 32"),
        (LIST[:-4] + (1437).to_bytes(4, "little"), "round 3, step 4: sample 1437, there are 0 to 1436 for training"),
    ],
)
def test_what_is_no_list_for_the_job_is_refused_by_its_words(content: bytes, words: str) -> None:
    with pytest.raises(InvalidBatches, match=words):
        batch_list.check(content, STEPS, SIZE, 1437)


def test_an_independent_numpy_version_ends_in_the_same_bytes_in_every_round_and_attempt() -> None:
    samples = load_samples(data.decode(DIGITS), CPU)
    features, labels, train = twin.dataset(DIGITS)
    job, base = twin.Job(JOB.encode()), initial_bytes(JOB)
    found = {}
    for number, attempt in ((1, 1), (1, 2), (3, 1), (4, 1)):
        listed = twin.listed_batches(job, LIST, number, attempt)
        theirs = twin.train(job, twin.initial(job), features[:train], labels[:train], bytes(32), listed)
        mine = train_round(JOB, base, samples, bytes(32), row=row(number, attempt))
        assert sha256(mine) == sha256(twin.canonical(theirs, job.bits))
        found[number, attempt] = sha256(mine)
    assert found[4, 1] == found[1, 1]  # the fourth round begins with the first row again
    assert len(set(found.values())) == 3  # the second attempt of a round is work of its own
    assert found[1, 1] == GOLDEN


def test_the_seed_says_nothing_beside_a_list_and_a_list_of_the_seeds_batches_gives_what_the_seed_gives() -> None:
    samples = load_samples(data.decode(DIGITS), CPU)
    seeded = digits_manifest(steps=STEPS)
    drawn = [int(index) for batch in batches(bytes(32), 1437, SIZE, STEPS) for index in batch]
    same = batch_list.row(batch_list.encode(array.array("I", drawn), STEPS, SIZE), STEPS, SIZE, 1, 1)
    expected = train_round(seeded, initial_bytes(seeded), samples, bytes(32))
    for seed in (bytes(32), b"\1" * 32):
        assert train_round(JOB, initial_bytes(JOB), samples, seed, row=same) == expected


@pytest.mark.parametrize(
    ("manifest", "given_row", "words"),
    [
        (JOB, None, "are missing"),
        (digits_manifest(steps=STEPS), row(1, 1), "were not asked for"),
        (JOB, row(1, 1)[:-4], "a round of 508 bytes"),
        (JOB, b"\xff" * 4 * STEPS * SIZE, "round 1, step 1: sample 4294967295"),
    ],
)
def test_a_learner_refuses_batches_that_do_not_fit_before_it_trains(
    manifest: Manifest, given_row: bytes | None, words: str, tmp_path: Path
) -> None:
    (tmp_path / "digits").write_bytes(DIGITS)
    (tmp_path / "base").write_bytes(initial_bytes(manifest))
    if given_row is not None:
        (tmp_path / "row").write_bytes(given_row)
    job = Train(
        id=1, manifest=manifest.encode(), base="base", dataset="digits", batch_seed=bytes(32), out="out",
        row=None if given_row is None else "row",
    )  # fmt: skip
    with pytest.raises(InvalidBatches, match=words):
        Workbench(tmp_path, CPU).do(job, lambda step, steps, loss: False)
    assert not (tmp_path / "out").exists()


@given(st.binary(min_size=32, max_size=32), st.integers(1, 300), st.data())
@settings(max_examples=30, deadline=None)
def test_plain_python_draws_the_batches_that_torch_draws(seed: bytes, train: int, draw: st.DataObject) -> None:
    size, steps = draw.draw(st.integers(1, train)), draw.draw(st.integers(1, 12))
    drawn = [batch.tolist() for batch in batches(seed, train, size, steps)]
    assert list(assigned.batches(seed, train, size, steps)) == drawn
    assert assigned.permutation(seed, "x", train) == philox.permutation(seed, "x", train).tolist()


def test_a_csv_file_and_an_array_become_the_same_list(tmp_path: Path) -> None:
    cube = np.arange(24).reshape(2, 3, 4)
    (tmp_path / "b.csv").write_text("".join(",".join(map(str, batch)) + "\n" for batch in cube.reshape(6, 4)) + "\n")
    np.save(tmp_path / "b.npy", cube)
    listed = [batch_file.read(tmp_path / name, 3, 4) for name in ("b.csv", "b.npy")]
    assert listed[0] == listed[1]
    assert listed[0] == b"flbatch1" + np.array([2, 3, 4, *range(24)], "<u4").tobytes()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,2\n3\n", "b.csv: line 2 has 1 samples, a batch has 2"),
        ("1,2\n3,x\n", "b.csv: line 2: 'x' is not the number of a sample"),
        ("1,2\n3,-1\n", "line 2: '-1' is not"),
        ("1,4294967296\n", "line 1: '4294967296' is not"),
        ("1,2\n", "b.csv: 2 indices are not whole rounds of 2 steps of 2 samples"),
        ("", "b.csv: 0 indices are not whole rounds"),
        ("1,\xff\n", "is not UTF-8"),
    ],
)
def test_a_mistake_in_a_csv_file_is_named_with_its_line(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidBatches, match=words):
        batch_file.read(tmp_path / "b.csv", 2, 2)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (np.zeros((3, 2)), r"has an array of float64 \[3, 2\]; whole numbers \[rounds, steps = 2, batch_size = 2\]"),
        (np.zeros((1, 2, 3), int), r"int64 \[1, 2, 3\]"),
        (np.full((1, 2, 2), -1), "a number from 0 on"),
        (np.array([[["a", "b"]] * 2]), "an array of <U1"),
    ],
)
def test_an_array_of_another_kind_is_refused(found: np.ndarray, words: str, tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", found)
    with pytest.raises(InvalidBatches, match=words):
        batch_file.read(tmp_path / "b.npy", 2, 2)
    (tmp_path / "b.npy").write_bytes(b"no array")
    with pytest.raises(InvalidBatches, match=r"b\.npy: "):
        batch_file.read(tmp_path / "b.npy", 2, 2)
