"""flnode economics, and the reward that a job file leaves to it."""

from __future__ import annotations

import json
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from chain.economics import Audit, Crowd, Kind, Prices, fair_reward, odds
from cli.errors import UserError
from cli.jobfile import load_job
from cli.main import run

EXAMPLE = Path(__file__).parent.parent.parent / "configs" / "jobs" / "digits.toml"
NOW = 1_800_000_000.0


def answer(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, object]:
    assert run(["economics", *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def earned(found: dict[str, object]) -> dict[str, dict[str, int]]:
    rows = found["earnings"]
    assert isinstance(rows, list)
    return {row["kind"]: {key: int(value) for key, value in row.items() if key != "kind"} for row in rows}


def test_the_answer_for_machines_has_the_probabilities(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "--pool", "5", "--evil", "0.3")
    assert found["paid_given_good"] == 0.9163
    assert found["void_given_good"] == 0.0837
    assert found["round_void"] == 0.16308
    found = answer(capsys, "--pool", "5", "--evil", "3/10", "--collude", "--workers", "10")
    assert found["evil_workers"] == 3
    assert found["paid_given_good"] == pytest.approx(20 / 21)
    assert found["round_void"] == 0


def test_with_the_stake_that_it_chooses_every_cheat_loses_and_the_honest_earn(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = answer(capsys, "--pool", "5", "--evil", "0.3", "--collude", "--cost", "1 flt", "--margin", "0.25")
    rows = earned(found)
    assert rows["honest"]["deposits_wei"] == pytest.approx(25 * 10**16, abs=1)
    assert rows["colluder"]["plain_wei"] > 0
    assert all(rows[kind]["deposits_wei"] < 0 for kind in ("random", "copier", "colluder"))
    assert int(str(found["stake_wei"])) == 2 * int(str(found["stake_deterring_wei"]))


def test_a_pool_of_one_is_deterred_by_audits_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "--pool", "1", "--evil", "0.3")["stake_deterring_wei"] is None
    rows = earned(answer(capsys, "--pool", "1", "--evil", "0.3", "--audit", "0.05"))
    assert rows["random"]["deposits_wei"] > 0
    assert rows["random"]["audits_wei"] > 0
    assert rows["random"]["both_wei"] < 0


def test_it_compares_what_a_verified_round_costs(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--pool", "1", "--evil", "0.3", "--audit", "0.05", "--auditors", "4", "--gas-price", "0 wei")
    rows = answer(capsys, *options)["verified"]
    assert isinstance(rows, list)
    assert [(row["pool"], row["audit"], row["computations"]) for row in rows] == [
        (3, 0, 3), (5, 0, 5), (1, 0.02, 1.08), (1, 0.05, 1.2), (1, 0.1, 1.4),
    ]  # fmt: skip
    assert [round(row["times_unverified"], 6) for row in rows] == [3, 5, 1.08, 1.2, 1.4]
    assert len(answer(capsys, *options[:4], "--audit", "0.01", "--auditors", "4")["verified"]) == 6  # type: ignore[arg-type]
    assert run(["economics", *options]) == 0
    out = capsys.readouterr().out
    for text in ("TIMES UNVERIFIED", "STAKE, 0.3 COLLUDE", "each audit is computed by 4 validators"):
        assert text in out


def test_a_given_reward_and_stake_are_judged_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "--pool", "3", "--evil", "0.4", "--reward", "1 flt", "--stake", "0.1 flt")
    assert (found["reward_wei"], found["stake_wei"]) == (str(10**18), str(10**17))
    assert earned(found)["colluder"]["deposits_wei"] > 0


def test_the_answer_for_people_names_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["economics", "--pool", "5", "--evil", "0.3", "--collude", "--audit", "0.05"]) == 0
    out = capsys.readouterr().out
    for text in ("0.9163, audited 0.9205", "reward to post", "least stake", "DEPOSIT AND AUDITS", *map(str, Kind)):
        assert text in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--pool", "4"), "--pool must be odd, 1 to 31"),
        (("--evil", "1"), "--evil must be at least 0 and below 1"),
        (("--evil", "-0.1"), "--evil: '-0.1' is not a number such as 0.3 or 3/10"),
        (("--evil", "1/0"), "--evil: '1/0' is not a number"),
        (("--evil", "1e-9"), "--evil: '1e-9' is not a number"),
        (("--pool", "5", "--workers", "3"), "--workers must be pool = 5 to 1000000"),
        (("--pool", "5", "--workers", "5", "--evil", "0.8"), "--evil among so many dishonest workers"),
        (("--cost", "5"), "--cost: '5' is not an amount"),
        (("--margin", "x"), "--margin: 'x' is not a number"),
        (("--audit", "1.5"), "--audit must be 0 to 1"),
        (("--auditors", "0"), "--auditors must be 1 to 100"),
        (("--audit-void", "2"), "--audit-void must be 0 to 1"),
        (("--plot", "curves.txt"), "--plot: curves.txt does not end in .png, .svg, .pdf"),
    ],
)
def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str) -> None:
    assert run(["economics", *options]) == 2
    caught = capsys.readouterr()
    assert caught.out == ""
    assert message in caught.err
    assert caught.err.count("\n") == 1


def test_curves_become_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="an extra")
    path = tmp_path / "curves.png"
    assert run(["economics", "--pool", "5", "--evil", "0.3", "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert f"wrote {path}" in capsys.readouterr().out


def test_without_matplotlib_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert run(["economics", "--plot", str(tmp_path / "curves.png")]) == 2
    assert "pip install 'flnode[plot]'" in capsys.readouterr().err


# ---- reward = "auto" ----


def job_file(folder: Path, economics: str = "", reward: str = '"auto"') -> Path:
    path = folder / "job.toml"
    path.write_text(EXAMPLE.read_text().replace('"0.01 flt"', reward) + economics)
    return path


def test_an_automatic_reward_is_the_fair_one_and_says_from_what(tmp_path: Path) -> None:
    said: list[str] = []
    table = '\n[economics]\ncost = "0.02 flt"\nmargin = 0.5\nevil = 0.3\ncollude = true\ngas_price = "1 gwei"\n'
    spec = load_job(job_file(tmp_path, table), NOW, said.append)
    crowd = Crowd(3, Fraction(3, 10), collude=True)
    prices = Prices(2 * 10**16, Fraction(1, 2), 10**9, stake=10**17)
    assert int(spec.terms.reward_wei) == fair_reward(crowd, prices)
    (line,) = said
    for text in ("cost 0.02 flt", "0.5 margin", "0.0900 x stake 0.1 flt", "P = 0.9100", "3 slots, 0.3 dishonest"):
        assert text in line


def test_without_a_table_the_defaults_hold(tmp_path: Path) -> None:
    said: list[str] = []
    spec = load_job(job_file(tmp_path), NOW, said.append)
    crowd = Crowd(3, Fraction(1, 5), collude=True)
    prices = Prices(5 * 10**15, Fraction(1, 5), 8, stake=10**17)
    assert int(spec.terms.reward_wei) == fair_reward(crowd, prices)
    assert float(odds(Kind.HONEST, crowd).paid) == 0.96
    assert "P = 0.9600" in said[0]


def test_audits_lower_the_automatic_reward_by_what_they_save_an_honest_worker(tmp_path: Path) -> None:
    said: list[str] = []
    path = job_file(tmp_path)
    path.write_text(path.read_text().replace("[terms]", '[terms]\naudit = 0.25\naudit_fee = "0.02 flt"'))
    spec = load_job(path, NOW, said.append)
    prices = Prices(5 * 10**15, Fraction(1, 5), 8, stake=10**17)
    audit = Audit(Fraction(1, 4), Fraction(1))
    assert int(spec.terms.reward_wei) == fair_reward(Crowd(3, Fraction(1, 5), collude=True), prices, audit)
    assert "audited with p = 0.25" in said[0]


def test_a_stake_that_deters_nobody_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    path = job_file(tmp_path)
    path.write_text(path.read_text().replace('"0.1 flt"', '"1 gwei"'))
    load_job(path, NOW, said.append)
    assert "the stake is low: every cheat loses from" in said[0]
    path.write_text(path.read_text() + "\n[economics]\nevil = 0.5\n")
    load_job(path, NOW, said.append)
    assert "no stake by itself makes every cheat lose" in said[1]


@pytest.mark.parametrize(
    ("economics", "reward", "message"),
    [
        ("\n[economics]\n", '"1 flt"', '[economics] of {path} is read only with `reward = "auto"` in [terms]'),
        ("\n[economics]\nevil = 1.0\n", '"auto"', "`evil` in [economics] of {path} must be at least 0 and below 1"),
        ("\n[economics]\nevil = nan\n", '"auto"', "`evil` in [economics] of {path}: nan is not a number"),
        ("\n[economics]\nmargin = -1\n", '"auto"', "`margin` in [economics] of {path} must be 0 to 1000"),
        ("\n[economics]\ncost = 1\n", '"auto"', "`cost` in [economics] of {path}: 1 needs a unit"),
        ("\n[economics]\nworkers = 2\n", '"auto"', "`workers` in [economics] of {path} must be pool = 3 to 1000000"),
        ("\n[economics]\nevli = 0.1\n", '"auto"', "unknown key `evli` in [economics] of {path} (did you mean `evil`?)"),
        ("", '"automatic"', "`reward` in [terms] of {path}: 'automatic' is not an amount"),
    ],
)
def test_a_mistake_in_it_names_the_key_and_the_file(tmp_path: Path, economics: str, reward: str, message: str) -> None:
    path = job_file(tmp_path, economics, reward)
    with pytest.raises(UserError) as caught:
        load_job(path, NOW)
    assert message.format(path=path) in str(caught.value)
