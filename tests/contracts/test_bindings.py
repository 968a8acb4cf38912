"""The bindings say what the ABI says."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from eth_abi.abi import encode as abi_encode
from eth_hash.auto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.contracts import FINDER, REPLICATED, VALIDATORS, calls, compiled, events, facts, views
from chain.contracts import bindings as b
from chain.types import Log
from tests.contracts.world import BASE, GOOD, MANIFEST, SEED, TERMS, UPDATE_SIZE, WORKERS

TERMS_TYPE = f"({','.join(['uint256'] * 11)},bool,{','.join(['uint256'] * 5)})"
TERMS_VALUES = tuple(getattr(TERMS, field.name) for field in fields(TERMS))
MASK = bytes(range(65))
CONTRACTS = sorted(set(compiled()) - {"vyper"})


def test_every_event_of_the_abi_has_a_class_with_its_fields_in_order() -> None:
    known = {kind.__name__: kind for kind in b.Event.__args__}
    written = {
        entry["name"]: [field["name"] for field in entry["inputs"]]
        for name in CONTRACTS
        for entry in compiled()[name]["abi"]
        if entry["type"] == "event"
    }
    terms = [field.name for field in fields(b.Terms)]
    for name, names in written.items():
        own = [field.name for field in fields(known[name])]
        assert names == (own[:-1] + terms if name == "JobPosted" else own), name
    assert set(known) == set(written)


def test_indexed_fields_come_first() -> None:
    for name in CONTRACTS:
        for entry in compiled()[name]["abi"]:
            if entry["type"] == "event":
                flags = [field["indexed"] for field in entry["inputs"]]
                assert flags == sorted(flags, reverse=True), entry["name"]


def test_view_classes_name_the_fields_of_the_structs() -> None:
    structs = {"job": b.JobView, "round_of": b.RoundView, "seat": b.SeatView, "enrolment": b.EnrolmentView}
    structs |= {"books": b.Books, "open_at": b.Listing, "proposals_page": b.Proposal}
    for name in CONTRACTS:
        for entry in compiled()[name]["abi"]:
            if entry["type"] == "function" and entry["name"] in structs:
                (output,) = entry["outputs"]
                own = [field.name for field in fields(structs[entry["name"]])]
                assert [member["name"] for member in output["components"]] == own


def test_numbers_of_phases_states_and_reasons_are_those_of_the_contract() -> None:
    source = (calls.__file__).replace("calls.py", "replicated.vy")
    with open(source) as file:
        text = file.read()
    for name in (
        "COMMIT", "REVEAL", "AUDIT", "SETTLED", "VOID", "CLOSED", "WAITING", "RUNNING", "ENDED", "FINISHED", "STOPPED",
        "CANCELLED", "DEADLINE", "FAILED", "DRAWN", "COMMITTED", "REVEALED", "SEAT_SETTLED", "DRAWN_BY_LOT",
        "APPEALED", "UNDECIDED",
    ):  # fmt: skip
        assert f"\n{name}: constant(uint256) = {getattr(views, name)}\n" in text
    for name in ("OPEN", "RESOLVED", "LAPSED"):
        assert f"\n{name}: constant(uint256) = {getattr(views, f'AUDIT_{name}')}\n" in text


@pytest.mark.parametrize(
    ("call", "signature", "types", "values", "value"),
    [
        (
            b.post(MANIFEST, BASE, UPDATE_SIZE, SEED, TERMS),
            f"post(bytes32,bytes32,uint256,bytes32,{TERMS_TYPE})",
            ["bytes32", "bytes32", "uint256", "bytes32", TERMS_TYPE],
            [MANIFEST, BASE, UPDATE_SIZE, SEED, TERMS_VALUES],
            TERMS.reward * TERMS.slots * TERMS.rounds_max,
        ),
        (b.top_up(7, 2, TERMS), "top_up(uint256,uint256)", ["uint256"] * 2, [7, 2], TERMS.reward * TERMS.slots * 2),
        (b.cancel(7), "cancel(uint256)", ["uint256"], [7], 0),
        (b.enrol(7, 99), "enrol(uint256)", ["uint256"], [7], 99),
        (b.leave(7), "leave(uint256)", ["uint256"], [7], 0),
        (
            b.commit(7, 2, 1, GOOD, BASE, SEED),
            "commit(uint256,uint256,uint256,bytes32,bytes32,bytes32)",
            ["uint256"] * 3 + ["bytes32"] * 3,
            [7, 2, 1, GOOD, BASE, SEED],
            0,
        ),
        (
            b.reveal(7, 2, 1, GOOD, MASK, BASE),
            "reveal(uint256,uint256,uint256,bytes32,bytes,bytes32)",
            ["uint256"] * 3 + ["bytes32", "bytes", "bytes32"],
            [7, 2, 1, GOOD, MASK, BASE],
            0,
        ),
        (
            b.finalise(7, 2, 1, True),
            "finalise(uint256,uint256,uint256,bool)",
            ["uint256"] * 3 + ["bool"],
            [7, 2, 1, True],
            0,
        ),
        (b.appeal(7, 2, 1, 99), "appeal(uint256,uint256,uint256)", ["uint256"] * 3, [7, 2, 1], 99),
        (
            b.resolve(7, 2, 1, GOOD),
            "resolve(uint256,uint256,uint256,bytes32)",
            ["uint256"] * 3 + ["bytes32"],
            [7, 2, 1, GOOD],
            0,
        ),
        (b.expire(7, 2, 1), "expire(uint256,uint256,uint256)", ["uint256"] * 3, [7, 2, 1], 0),
        (b.close(7, 2, 1), "close(uint256,uint256,uint256)", ["uint256"] * 3, [7, 2, 1], 0),
        (b.end(7), "end(uint256)", ["uint256"], [7], 0),
        (b.settle(7, WORKERS[0]), "settle(uint256,address)", ["uint256", "address"], [7, WORKERS[0]], 0),
        (b.withdraw(7), "withdraw(uint256)", ["uint256"], [7], 0),
        (b.propose(WORKERS[0], True), "propose(address,bool)", ["address", "bool"], [WORKERS[0], True], 0),
        (b.approve(7), "approve(uint256)", ["uint256"], [7], 0),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_calldata_is_what_eth_abi_encodes(
    call: b.Call, signature: str, types: list[str], values: list[object], value: int
) -> None:
    assert call.data == keccak(signature.encode())[:4] + abi_encode(types, values)
    of_validators = signature.startswith(("propose(", "approve("))
    assert (call.to, call.value) == (VALIDATORS if of_validators else REPLICATED, value)


def test_a_reveal_sends_little_gas_when_it_cannot_open_a_round() -> None:
    assert b.reveal(1, 1, 1, GOOD, MASK, BASE, auto_finalise=False).gas < b.reveal(1, 1, 1, GOOD, MASK, BASE).gas / 10


@pytest.mark.parametrize(
    "build",
    [
        lambda: b.commit(1, 1, 1, b"short", GOOD, GOOD),
        lambda: b.commit(-1, 1, 1, GOOD, GOOD, GOOD),
        lambda: b.commit(2**256, 1, 1, GOOD, GOOD, GOOD),
        lambda: b.commit(True, 1, 1, GOOD, GOOD, GOOD),
        lambda: b.settle(1, GOOD),
        lambda: b.finalise(1, 1, 1, 1),
        lambda: b.propose(GOOD, True),
        lambda: b.propose(WORKERS[0], 1),
        lambda: b.reveal(1, 1, 1, GOOD, "mask", GOOD),
        lambda: b.post(GOOD, GOOD, 1, GOOD, replace(TERMS, auto_finalise=None)),
    ],
)
def test_an_argument_that_does_not_fit_is_refused_and_never_padded(build: object) -> None:
    with pytest.raises(ValueError, match="is not"):
        build()


def log_of(address: bytes, topics: tuple[bytes, ...], data: bytes) -> Log:
    return Log(address, topics, data, 1, bytes(32), bytes(32), 0)


def test_logs_of_others_and_unknown_logs_are_not_decoded() -> None:
    topic = b.topic_of(b.JobCancelled)
    job = (1).to_bytes(32, "big")
    assert b.decode(log_of(REPLICATED, (topic, job), b"")) == b.JobCancelled(1)
    assert b.decode(log_of(FINDER, (topic, job), b"")) is None
    assert b.decode(log_of(b"\x01" * 20, (topic, job), b"")) is None
    assert b.decode(log_of(REPLICATED, (keccak(b"other"), job), b"")) is None
    assert b.decode(log_of(REPLICATED, (), b"")) is None


def test_a_log_that_is_cut_short_is_an_error() -> None:
    job = (1).to_bytes(32, "big")
    with pytest.raises(ValueError, match="cut short"):
        b.decode(log_of(REPLICATED, (b.topic_of(b.JobCancelled),), b""))
    with pytest.raises(ValueError, match="cut short"):
        b.decode(log_of(REPLICATED, (b.topic_of(b.JobToppedUp), job), bytes(31)))


@settings(max_examples=60, deadline=None)
@given(workers=st.lists(st.binary(min_size=20, max_size=20), max_size=31), number=st.integers(0, 2**256 - 1))
def test_dynamic_fields_are_read_as_eth_abi_writes_them(workers: list[bytes], number: int) -> None:
    word = number.to_bytes(32, "big")
    types = ["uint256", "bytes32", "bytes32", "address[]", "uint256"]
    data = abi_encode(types, [number, BASE, SEED, workers, number])
    opened = b.decode(log_of(REPLICATED, (b.topic_of(b.RoundOpened), word, word), data))
    assert opened == b.RoundOpened(number, number, number, BASE, SEED, tuple(workers), number)
    mask = b"".join(workers)[:65]
    types = ["uint256", "bytes32", "bytes32", "uint256", "bytes32", "bytes", "bytes32"]
    data = abi_encode(types, [number, BASE, SEED, number, GOOD, mask, BASE])
    topics = (b.topic_of(b.Revealed), word, word, WORKERS[0].rjust(32, b"\0"))
    revealed = b.decode(log_of(REPLICATED, topics, data))
    assert revealed == b.Revealed(number, number, WORKERS[0], number, BASE, SEED, number, GOOD, mask, BASE)


@settings(max_examples=30, deadline=None)
@given(validators=st.lists(st.binary(min_size=20, max_size=20), max_size=100), epoch=st.integers(0, 2**256 - 1))
def test_a_change_of_the_validators_is_read_from_its_log_alone(validators: list[bytes], epoch: int) -> None:
    topics = (b.topic_of(b.ValidatorsChanged), epoch.to_bytes(32, "big"))
    data = abi_encode(["address[]"], [validators])
    assert b.validators_of(log_of(VALIDATORS, topics, data)) == (epoch, tuple(validators))
    for stranger in (REPLICATED, FINDER, b"\x01" * 20):
        assert b.validators_of(log_of(stranger, topics, data)) is None
    assert b.validators_of(log_of(VALIDATORS, (b.topic_of(b.Approved), *topics[1:]), data)) is None
    assert b.validators_of(log_of(VALIDATORS, (), data)) is None


def test_bindings_export_every_public_name_of_their_parts() -> None:
    for module in (calls, events, facts, views):
        own = {
            name
            for name, value in vars(module).items()
            if getattr(value, "__module__", None) == module.__name__ and len(name) > 1 and not name.startswith("_")
        }
        assert own - set(b.__all__) <= {"encode", "flat_types", "selector_of"}
    assert sorted(b.__all__, key=str) == sorted(set(b.__all__))
