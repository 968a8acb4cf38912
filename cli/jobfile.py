"""A job as a TOML file -> schema.JobSpec. Every mistake is one line that names the key and the file."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from cli import audit_terms, job_model
from cli.amounts import parse_amount
from cli.auto_reward import AUTO, DEFAULTS, auto_reward
from cli.errors import UserError
from learner import manifest as m
from learner.architecture import Model
from learner.errors import InvalidManifest
from node import unixfs
from node.api import schema

Say = Callable[[str], None]

_FILE_BYTES_MAX: Final = 1 << 20
_DIGEST: Final = re.compile(r"0x[0-9a-fA-F]{64}")
_NAME: Final = re.compile(schema.DATASET_NAME)
BUILT_IN: Final = {"digits": (64, 10)}  # features and classes

# key -> (type, default); ... means that the key is required
_JOB: Final[Mapping[str, tuple[type, Any]]] = {
    "dataset": (str, ...),
    "model": (str, "mlp"),
    **job_model.KEYS,
    "batch_size": (int, ...),
    "steps": (int, ...),
    "learning_rate": (float, ...),
    "momentum": (float, 0.0),
    "weight_decay": (float, 0.0),
    "optimiser": (str, "sgd"),
    "beta2": (float, None),
    "epsilon": (float, None),
    "bits": (int, m.BITS_DEFAULT),
    "weights": (str, None),
    "goal_accuracy": (float, None),
    "seed": (int, 0),
}
_TERMS: Final[Mapping[str, tuple[type, Any]]] = {
    "reward": (str, ...),
    "stake": (str, ...),
    "slots": (int, ...),
    "workers_min": (int, 3),
    "rounds_max": (int, ...),
    "attempts_max": (int, 3),
    "commit_window_s": (int, 120),
    "reveal_window_s": (int, 60),
    "last_call_s": (int, 30),
    "grace_s": (int, 60),
    "deadline_s": (int, 7 * 86_400),
    "auto_finalise": (bool, False),
    **audit_terms.KEYS,
}
_ECONOMICS: Final[Mapping[str, tuple[type, Any]]] = {key: (type(value), value) for key, value in DEFAULTS.items()}
_AMOUNTS: Final = ("reward", "stake", "cost", "gas_price", *audit_terms.AMOUNTS)
_TYPE_NAMES: Final = {str: "a string", list: "a list", int: "a whole number", float: "a number", bool: "true or false"}


def load_job(path: Path, now: float, say: Say = lambda text: None) -> schema.JobSpec:
    """Read and check a job file.

    Args:
        path: the TOML file, with the tables [job] and [terms], and [economics] if its reward is "auto".
        now: Unix time; the deadline counts from here.
        say: told in one line what an automatic reward was computed from.
    Raises:
        UserError: names the key, the file and what was expected.
    """
    try:
        if path.stat().st_size > _FILE_BYTES_MAX:
            raise UserError(f"{path} is larger than {_FILE_BYTES_MAX} bytes; is it a job file?")
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no job file at {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None
    for name, table in tables.items():
        if name not in ("job", "terms", "economics") or not isinstance(table, dict):
            known = 'the tables [job] and [terms], and [economics] with `reward = "auto"`'
            raise UserError(f"{path}: `{name}` is not known here; a job file has {known}")
    job, terms, economics = tables.get("job", {}), tables.get("terms", {}), tables.get("economics")
    return job_spec(job, terms, now, str(path), economics, say, path.parent)


def job_spec(
    job: Mapping[str, Any],
    terms: Mapping[str, Any],
    now: float,
    source: str,
    economics: Mapping[str, Any] | None = None,
    say: Say = lambda text: None,
    folder: Path = Path(),
) -> schema.JobSpec:
    """As `load_job`, from the tables; `source` is named in errors, `folder` is where names of files begin."""
    job = _table(job, _JOB, "job", source)
    terms = _table(terms, _TERMS, "terms", source)
    model, adam = job_model.build(job, folder, source), _adam(job, source)
    _check_job(job, model, adam, source)
    _check_terms(terms, source)
    if terms["slots"] == 1 and not terms["audit"]:
        say("slots = 1 without `audit`: whatever the one worker reveals is believed and paid")
    stake = parse_amount(terms["stake"], f"`stake` in [terms] of {source}")
    return schema.JobSpec(
        dataset=job["dataset"],
        model=model,
        batch_size=job["batch_size"],
        steps=job["steps"],
        learning_rate=job["learning_rate"],
        momentum=job["momentum"],
        seed=job["seed"],
        goal_accuracy=job["goal_accuracy"],
        weight_decay=job["weight_decay"],
        adam=adam,
        bits=job["bits"],
        weights=job["weights"],
        terms=schema.Terms(
            reward_wei=str(_reward(terms, stake, economics, source, say)),
            stake_wei=str(stake),
            deadline=int(now) + terms["deadline_s"],
            **{key: terms[key] for key in _TERMS if key not in ("reward", "stake", "deadline_s", *audit_terms.KEYS)},
            **audit_terms.audit_terms(terms, source),
        ),
    )


def _reward(terms: Mapping[str, Any], stake: int, economics: Mapping[str, Any] | None, source: str, say: Say) -> int:
    """Wei, as the file has it or computed."""
    if terms["reward"] != AUTO:
        if economics is not None:
            raise UserError(f'[economics] of {source} is read only with `reward = "auto"` in [terms]')
        return parse_amount(terms["reward"], f"`reward` in [terms] of {source}")
    table = _table(economics or {}, _ECONOMICS, "economics", source)
    found = auto_reward(table, terms["slots"], stake, source, audit_terms.exact_share(terms))
    say(found.reason)
    return found.wei


def escrow_wei(terms: schema.Terms) -> int:
    """What posting a job costs at most: the reward of every slot, and an audit, of every round."""
    return (int(terms.reward_wei) * terms.slots + int(terms.audit_fee_wei)) * terms.rounds_max


def _table(given: Mapping[str, Any], known: Mapping[str, tuple[type, Any]], name: str, source: str) -> dict[str, Any]:
    values = {}
    for key, value in given.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f" (did you mean `{close[0]}`?)" if close else f" (known: {', '.join(known)})"
            raise UserError(f"unknown key `{key}` in [{name}] of {source}{hint}")
        kind = known[key][0]
        if kind is float and type(value) is int:
            value = float(value)
        # amounts are strings with a unit; parse_amount says so better than a type error can
        if type(value) is not kind and key not in _AMOUNTS:
            raise UserError(f"`{key}` in [{name}] of {source}: expected {_TYPE_NAMES[kind]}, got {value!r}")
        values[key] = value
    for key, (_, default) in known.items():
        if key not in values:
            if default is ...:
                raise UserError(f"missing key `{key}` in [{name}] of {source}")
            values[key] = default
    return values


def _adam(job: Mapping[str, Any], source: str) -> m.Adam | None:
    given = {key: job[key] for key in ("beta2", "epsilon") if job[key] is not None}
    _require(job["optimiser"] in ("sgd", "adam"), "job", "optimiser", "expected sgd or adam", source)
    if job["optimiser"] == "adam":
        return m.Adam(**given)
    _require(not given, "job", next(iter(given), ""), "only with optimiser = \"adam\"", source)
    return None


def _check_job(job: Mapping[str, Any], model: Model, adam: m.Adam | None, source: str) -> None:
    """The learner's own rules, asked with a stand-in for what only the node knows: the dataset's digest and size."""
    dataset = job["dataset"]
    if not (_DIGEST.fullmatch(dataset) or _NAME.fullmatch(dataset) or _is_cid(dataset)):
        text = f"{dataset!r} is not the name, CID or 0x digest of a dataset; `flnode data list` shows those at a node"
        raise UserError(f"`dataset` in [job] of {source}: {text}")
    if job["weights"] is not None:
        place = f"{job['weights']!r} is not the CID or 0x digest of a model's state"
        _require(bool(_DIGEST.fullmatch(job["weights"])) or _is_cid(job["weights"]), "job", "weights", place, source)
    _require(0 <= job["seed"] < 1 << 63, "job", "seed", "expected 0 to 2**63 - 1", source)
    try:
        goal = None if job["goal_accuracy"] is None else m.Goal(job["goal_accuracy"])
        m.validated(
            m.Manifest(
                model=model,
                dataset=bytes(32),
                dataset_size=1,
                batch_size=job["batch_size"],
                steps=job["steps"],
                learning_rate=job["learning_rate"],
                momentum=job["momentum"],
                weight_decay=job["weight_decay"],
                adam=adam,
                bits=job["bits"],
                init_seed=bytes(32),
                goal=goal,
            )
        )
    except InvalidManifest as error:
        key = error.field.replace("adam.", "").replace("goal.at_least", "goal_accuracy") or "job"
        raise UserError(f"`{key}` in [job] of {source}: {error.reason}") from None
    if dataset in BUILT_IN and (model.features, model.classes) != BUILT_IN[dataset]:
        features, classes = BUILT_IN[dataset]
        got = job["sizes"] or f"{model.features} and {model.classes}"
        text = f"{dataset} needs {features} inputs and {classes} outputs, got {got}"
        raise UserError(f"`{'sizes' if job['sizes'] else 'model'}` in [job] of {source}: {text}")


def _is_cid(text: str) -> bool:
    try:
        unixfs.parse_cid(text)
    except ValueError:
        return False
    return True


def _check_terms(terms: Mapping[str, Any], source: str) -> None:
    checks: list[tuple[str, Callable[[int], bool], str]] = [
        ("slots", lambda v: 1 <= v <= schema.SLOTS_MAX and v % 2 == 1, f"expected an odd number to {schema.SLOTS_MAX}"),
        ("workers_min", lambda v: 1 <= v <= terms["slots"], f"expected 1 to `slots` = {terms['slots']}"),
        ("rounds_max", lambda v: v >= 1, "expected at least 1"),
        ("attempts_max", lambda v: 1 <= v <= schema.ATTEMPTS_MAX, f"expected 1 to {schema.ATTEMPTS_MAX}"),
        ("commit_window_s", lambda v: v >= 1, "expected at least 1"),
        ("reveal_window_s", lambda v: v >= 1, "expected at least 1"),
        ("last_call_s", lambda v: v >= 1, "expected at least 1"),
        ("grace_s", lambda v: v >= 0, "expected at least 0"),
        ("deadline_s", lambda v: v >= 1, "expected at least 1"),
    ]
    for key, holds, expected in checks:
        _require(holds(terms[key]) and terms[key] < 1 << 32, "terms", key, f"{expected}, got {terms[key]}", source)


def _require(holds: bool, table: str, key: str, text: str, source: str) -> None:
    if not holds:
        raise UserError(f"`{key}` in [{table}] of {source}: {text}")
