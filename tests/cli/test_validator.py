"""`flnode validator`, against a node that holds the first of four validators' keys."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from api_kit import VALIDATORS, signed_by_validator

from chain.contracts import bindings as b
from cli.main import run

Capture = pytest.CaptureFixture[str]
NEW = bytes.fromhex("52908400098527886e0f7030069857d2e4169ee7")


class Person:
    """Somebody with a shell at the node, and the other validators, who send their transactions from elsewhere."""

    def __init__(self, directory: Path, capsys: Capture) -> None:
        self.directory, self.capsys = directory, capsys
        self.nonces = [0] * 4

    def run(self, *arguments: str, code: int = 0) -> str:
        """What `flnode validator` prints: on stdout, or on stderr if it has to fail."""
        assert run(["validator", *arguments, "--config", str(self.directory)]) == code
        captured = self.capsys.readouterr()
        said, nothing = (captured.err, captured.out) if code else (captured.out, captured.err)
        assert nothing == ""
        return said

    def other(self, index: int, call: b.Call) -> None:
        raw = signed_by_validator(index, self.nonces[index], call)
        request = {"jsonrpc": "2.0", "id": 1, "method": "eth_sendRawTransaction", "params": ["0x" + raw.hex()]}
        answer = httpx.post((self.directory / "url").read_text(), json=request, trust_env=False).json()
        assert "result" in answer, answer
        self.nonces[index] += 1


@pytest.fixture
def person(directory: Path, capsys: Capture) -> Person:
    return Person(directory, capsys)


def hexed(address: bytes) -> str:
    return "0x" + address.hex()


def test_the_validators_are_listed_by_index_with_who_is_connected(person: Person) -> None:
    lines = [line.strip() for line in person.run("list").splitlines()]
    assert lines[0] == "epoch 0, 4 validators, quorum 3"
    assert [line.split(maxsplit=2) for line in lines[3:7]] == [
        ["0", hexed(VALIDATORS[0]), "this node"],
        ["1", hexed(VALIDATORS[1]), "yes"],
        ["2", hexed(VALIDATORS[2]), "yes"],
        ["3", hexed(VALIDATORS[3]), "no"],
    ]
    assert lines[-1] == "no proposal is open"


def test_a_validator_is_proposed_approved_and_admitted(person: Person) -> None:
    address = "0x52908400098527886E0F7030069857D2E4169EE7"
    made = person.run("propose", address)
    assert made.startswith(f"proposal 1 to admit {address} made; 1 of 3 approvals (transaction 0x")
    person.other(1, b.propose(VALIDATORS[3], False))
    approved = person.run("approve", "2")
    assert approved.startswith("proposal 2 approved; 2 of 3 approvals (")
    person.other(2, b.propose(VALIDATORS[2], False))
    rows = [line.split() for line in person.run("list").splitlines()[-3:]]
    assert rows == [
        ["1", "admit", hexed(NEW), "1", "of", "3", "yes", hexed(VALIDATORS[0])],
        ["2", "remove", hexed(VALIDATORS[3]), "2", "of", "3", "yes", hexed(VALIDATORS[1])],
        ["3", "remove", hexed(VALIDATORS[2]), "1", "of", "3", "no", hexed(VALIDATORS[2])],
    ]
    person.other(1, b.approve(1))
    person.other(3, b.approve(1))
    found = json.loads(person.run("list", "--json"))
    assert (found["epoch"], found["quorum"], found["proposals"]) == (1, 4, [])
    assert [each["address"] for each in found["validators"]] == list(map(hexed, (*VALIDATORS, NEW)))
    assert "cannot approve proposal 3: the proposal's epoch has ended" in person.run("approve", "3", code=1)


def test_the_deciding_approval_says_that_the_epoch_ends(person: Person) -> None:
    person.other(1, b.propose(VALIDATORS[3], False))
    person.other(3, b.approve(1))
    done = json.loads(person.run("approve", "1", "--json"))
    assert (done["final"], done["proposal"], done["epoch"]) == (True, 1, 1)
    assert "epoch 1, 3 validators, quorum 3" in person.run("list")


def test_a_decision_is_said_in_words_too(person: Person) -> None:
    person.other(1, b.propose(NEW, True))
    person.other(3, b.approve(1))
    assert "proposal 1 approved; the change is made, epoch 1 begins (" in person.run("approve", "1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["propose", hexed(VALIDATORS[1])], f"cannot admit {hexed(VALIDATORS[1])}: it is a validator already"),
        (["propose", hexed(NEW), "--remove"], f"cannot remove {hexed(NEW)}: it is no validator"),
        (["propose", hexed(bytes(20))], "the zero address cannot be a validator"),
        (["propose", hexed(VALIDATORS[3]), "--remove"], "proposed already, approve proposal 1"),
        (["propose", "0x52908400098527886E0F7030069857D2E4169eE7"], "its checksum (EIP-55) is wrong"),
        (["propose", "0x5290"], "'0x5290' is not an address"),
        (["approve", "7"], "cannot approve proposal 7: there is no such proposal"),
    ],
)
def test_what_the_contract_would_refuse_is_said_before_anything_is_sent(
    person: Person, arguments: list[str], message: str
) -> None:
    person.other(1, b.propose(VALIDATORS[3], False))
    said = person.run(*arguments, code=1)
    assert message in said
    assert said.count("\n") == 1
    person.other(0, b.approve(1))  # this node's first nonce is still free


def test_an_approval_given_twice_is_refused(person: Person) -> None:
    person.run("propose", hexed(NEW))
    assert "cannot approve proposal 1: you have approved it already" in person.run("approve", "1", code=1)


def test_a_node_that_is_no_validator_may_only_look(person: Person) -> None:
    person.other(1, b.propose(VALIDATORS[0], False))
    person.other(2, b.approve(1))
    person.other(3, b.approve(1))
    assert "this node" not in person.run("list")
    for arguments in (["propose", hexed(NEW)], ["approve", "1"]):
        said = person.run(*arguments, code=1)
        assert f"this node's account {hexed(VALIDATORS[0])} is no validator of epoch 1" in said


def test_over_http_only_looking_is_for_everybody(person: Person, capsys: Capture) -> None:
    url = (person.directory / "url").read_text()
    assert run(["validator", "list", "--url", url]) == 0
    for arguments in (["propose", hexed(NEW)], ["approve", "1"]):
        assert run(["validator", *arguments, "--url", url]) == 1
        assert "Unix socket or its token" in capsys.readouterr().err
