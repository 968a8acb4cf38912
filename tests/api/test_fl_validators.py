"""The methods that change the validators: who may call them, and what is refused before it is tried."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from api_kit import VALIDATORS, TinyNode

from node.api.fl import fl_methods
from node.api.jsonrpc import INVALID_PARAMS, NOT_PERMITTED, SERVER_ERROR, Dispatcher

CHECKSUMMED = "0x52908400098527886E0F7030069857D2E4169EE7"  # an example of EIP-55
MIXED = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"  # another


@pytest.fixture
def dispatcher(tmp_path: Path) -> Iterator[Dispatcher]:
    node = TinyNode(tmp_path)
    yield Dispatcher(fl_methods(node), batch_max=1)
    node.close()


async def ask(dispatcher: Dispatcher, method: str, admin: bool = True, **params: object) -> Any:
    """The result, or the error's code."""
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    answer = json.loads(await dispatcher.handle(json.dumps(request).encode(), admin=admin) or b"")
    return answer["error"]["code"] if "error" in answer else answer["result"]


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("fl_proposeValidator", {}),
        ("fl_proposeValidator", {"subject": "0x12"}),
        ("fl_proposeValidator", {"subject": MIXED.replace("0x5aA", "0x5Aa")}),
        ("fl_proposeValidator", {"subject": MIXED, "remove": True}),
        ("fl_proposeValidator", {"subject": MIXED, "admit": "no"}),
        ("fl_proposeValidator", {"subject": MIXED, "wait_s": 61}),
        ("fl_approveValidator", {}),
        ("fl_approveValidator", {"id": 0}),
        ("fl_approveValidator", {"id": 1 << 63}),
        ("fl_send", {"to": MIXED.replace("0x5aA", "0x5Aa"), "value_wei": "1"}),
    ],
)
async def test_parameters_that_make_no_sense_are_refused(
    dispatcher: Dispatcher, method: str, params: dict[str, object]
) -> None:
    assert await ask(dispatcher, method, **params) == INVALID_PARAMS


@pytest.mark.parametrize("subject", [CHECKSUMMED, MIXED, MIXED.lower(), MIXED[2:]])
async def test_an_address_is_taken_in_one_case_or_with_its_checksum(dispatcher: Dispatcher, subject: str) -> None:
    assert (await ask(dispatcher, "fl_proposeValidator", subject=subject))["proposal"] == 1


async def test_looking_is_for_everyone_and_changing_for_the_owner(dispatcher: Dispatcher) -> None:
    shown = await ask(dispatcher, "fl_validators", admin=False)
    assert [each["address"] for each in shown["validators"]] == ["0x" + address.hex() for address in VALIDATORS]
    assert await ask(dispatcher, "fl_proposeValidator", admin=False, subject=MIXED) == NOT_PERMITTED
    assert await ask(dispatcher, "fl_approveValidator", admin=False, id=1) == NOT_PERMITTED


async def test_to_admit_is_what_a_proposal_means_unless_it_says_otherwise(dispatcher: Dispatcher) -> None:
    subject = "0x" + VALIDATORS[3].hex()
    assert await ask(dispatcher, "fl_proposeValidator", subject=subject) == SERVER_ERROR
    assert (await ask(dispatcher, "fl_proposeValidator", subject=subject, admit=False))["proposal"] == 1
