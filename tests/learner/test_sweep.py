"""Settings of a machine that change float32 training change no bit of exact training; `make sweep` has all of them."""

from __future__ import annotations

import pytest

from learner import golden, selfcheck
from tests.learner import sweep


def test_exact_training_ends_in_one_digest_where_float32_ends_in_several() -> None:
    settings = [each for each in sweep.FEW if sweep.is_possible(each)]
    count = len(settings)
    assert count > 1
    # The wide model under each: there threads and instructions show. Of the presets each setting has its share.
    shares = [(sweep.WIDE, *list(golden.PRESETS)[place::count]) for place in range(count)]
    found = [sweep.digests(each, jobs) for each, jobs in zip(settings, shares, strict=True)]
    exact, plain = sweep.by_job(found)
    print(f"different digests: exact {exact}, float32 {plain}")
    assert exact.keys() == golden.PRESETS.keys() | {sweep.WIDE}
    assert plain.keys() == set(sweep.PLAIN)
    for jobs, digests in zip(shares, found, strict=True):
        assert len(digests) == len(jobs) * len(selfcheck.BACKENDS) + len(set(jobs) & set(sweep.PLAIN))
    assert {job: len(digests) for job, digests in exact.items()} == dict.fromkeys(exact, 1)
    assert all(exact[name] == {golden.recorded()[f"run {name}"]} for name in golden.PRESETS)
    assert max(map(len, plain.values())) > 1, "these settings change nothing here: the test cannot tell"


def test_the_report_counts_every_digest_and_fails_when_exact_training_has_two(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up = iter(
        [
            {"mlp/f64": "aa", "mlp/int8": "aa", "mlp/float32": "1"},
            {"mlp/f64": "aa", "mlp/int8": "bb", "mlp/float32": "2"},
        ]
    )
    monkeypatch.setattr(sweep, "digests", lambda setting: next(made_up))
    text, exact = sweep.report(
        [sweep.Setting("one"), sweep.Setting("two"), sweep.Setting("three", needs="no-such-flag")]
    )
    assert not exact
    assert text.splitlines()[3].split() == ["DIFFERENT", "DIGESTS", "1", "2", "2"]
    assert "exact, all backends together: mlp: 2" in text
    assert text.endswith("not on this machine: three\n")
