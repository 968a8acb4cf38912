"""The JSON-RPC 2.0 rules, without any transport."""

from __future__ import annotations

import json
from typing import Any

import eth  # noqa: F401  raises the recursion limit as in the daemon
import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from node.api import jsonrpc
from node.api.jsonrpc import Dispatcher, Method, NoParams, RpcError


class Pair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    left: int
    right: int = 10


async def add(p: Pair) -> int:
    return p.left + p.right


async def fail(p: NoParams) -> None:
    raise RpcError(3, "execution reverted", "0x08")


async def break_(p: NoParams) -> None:
    raise RuntimeError("secret detail")


CALLED: list[str] = []


async def note(p: NoParams) -> str:
    CALLED.append("noted")
    return "noted"


DISPATCHER = Dispatcher(
    {
        "add": Method(Pair, add),
        "fail": Method(NoParams, fail),
        "break": Method(NoParams, break_),
        "note": Method(NoParams, note, admin=True),
    },
    batch_max=3,
)


async def ask(request: object, admin: bool = False) -> Any:
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    answer = await DISPATCHER.handle(body, admin=admin)
    return None if answer is None else json.loads(answer)


def request(method: object, params: object = None, **more: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": 7, "method": method, **({} if params is None else {"params": params}), **more}


def deep(opening: str, closing: str, depth: int = 5_000) -> bytes:
    """A call whose params nest deeper than any that makes sense, but are well-formed."""
    params = opening * depth + ("1" if opening.endswith(":") else "") + closing * depth
    return b'{"jsonrpc":"2.0","id":7,"method":"add","params":' + params.encode() + b"}"


@pytest.mark.parametrize(
    ("params", "result"), [([1, 2], 3), ([1], 11), ({"left": 5}, 15), ([1, None], 11), ({"left": 1, "right": 1}, 2)]
)
async def test_parameters_may_be_positional_or_named_and_null_stands_for_left_out(params: object, result: int) -> None:
    assert await ask(request("add", params)) == {"jsonrpc": "2.0", "id": 7, "result": result}


@pytest.mark.parametrize(
    ("bad", "code", "text"),
    [
        (b"{", jsonrpc.PARSE_ERROR, "not valid JSON"),
        (b"\xff\xfe", jsonrpc.PARSE_ERROR, "not valid JSON"),
        (b"[" * 1_000_000, jsonrpc.PARSE_ERROR, "not valid JSON"),
        (b'{"a":' * 1_000_000, jsonrpc.PARSE_ERROR, "not valid JSON"),
        (deep("[", "]"), jsonrpc.INVALID_PARAMS, "add"),
        (deep('{"left":', "}"), jsonrpc.INVALID_PARAMS, "add"),
        ([], jsonrpc.INVALID_REQUEST, "empty batch"),
        (b"1", jsonrpc.INVALID_REQUEST, "expected `object`"),
        ({"jsonrpc": "1.0", "id": 7, "method": "add"}, jsonrpc.INVALID_REQUEST, "jsonrpc"),
        (request(None), jsonrpc.INVALID_REQUEST, "method"),
        (request("add", [1], id=[1]), jsonrpc.INVALID_REQUEST, "id"),
        (request("subtract"), jsonrpc.METHOD_NOT_FOUND, "subtract does not exist"),
        (request("add", [1, 2, 3]), jsonrpc.INVALID_PARAMS, "at most 2 parameters, got 3"),
        (request("add"), jsonrpc.INVALID_PARAMS, "missing"),
        (request("add", ["x"]), jsonrpc.INVALID_PARAMS, "parameter `left`: expected `int`, got `str`"),
        (request("add", {"left": 1, "rigth": 1}), jsonrpc.INVALID_PARAMS, "rigth"),
        (request("add", "x"), jsonrpc.INVALID_PARAMS, "array or an object"),
        (request("note"), jsonrpc.NOT_PERMITTED, "Unix socket or its token"),
        ([request("add", [1])] * 4, jsonrpc.LIMIT_EXCEEDED, "limit is 3"),
    ],
)
async def test_a_bad_request_gets_its_code_and_one_clear_line(bad: object, code: int, text: str) -> None:
    error = (await ask(bad))["error"]
    assert error["code"] == code
    assert text in error["message"]
    assert "\n" not in error["message"]


async def test_a_batch_is_answered_in_order_and_its_notifications_are_not() -> None:
    notification = {"jsonrpc": "2.0", "method": "add", "params": [1]}
    answers = await ask([request("add", [1], id=1), notification, request("subtract", id="b")])
    assert [answer["id"] for answer in answers] == [1, "b"]
    assert answers[0]["result"] == 11
    assert answers[1]["error"]["code"] == jsonrpc.METHOD_NOT_FOUND


async def test_a_notification_is_carried_out_without_an_answer() -> None:
    CALLED.clear()
    assert await ask({"jsonrpc": "2.0", "method": "note"}, admin=True) is None
    assert CALLED == ["noted"]


async def test_an_admin_method_is_not_even_begun_for_others() -> None:
    CALLED.clear()
    await ask(request("note"))
    assert CALLED == []
    assert (await ask(request("note"), admin=True))["result"] == "noted"


async def test_an_error_keeps_its_code_and_data() -> None:
    assert (await ask(request("fail")))["error"] == {"code": 3, "message": "execution reverted", "data": "0x08"}


async def test_a_bug_of_ours_is_answered_without_its_details() -> None:
    error = (await ask(request("break")))["error"]
    assert error["code"] == jsonrpc.INTERNAL_ERROR
    assert "secret" not in error["message"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
calls = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0") | json_values,
        "id": json_values,
        "method": st.sampled_from(["add", "fail", "break", "note"]) | json_values,
        "params": json_values,
    },
)


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=64) | (calls | json_values | st.lists(calls, max_size=4)).map(lambda v: json.dumps(v).encode())
)
def test_whatever_is_sent_the_answer_is_json_rpc_or_nothing(body: bytes) -> None:
    async def run() -> bytes | None:
        return await DISPATCHER.handle(body, admin=False)

    answer = trio.run(run)
    if answer is not None:
        found = json.loads(answer)
        for each in found if isinstance(found, list) else [found]:
            assert each["jsonrpc"] == "2.0"
            assert ("result" in each) != ("error" in each)
