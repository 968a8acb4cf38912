"""The methods for datasets and models: what callers without rights may call, and what is refused before it is tried."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from api_kit import STATE, UPDATE, TinyNode

from node.api.fl import fl_methods
from node.api.jsonrpc import INVALID_PARAMS, NOT_FOUND, NOT_PERMITTED, Dispatcher


@pytest.fixture
def dispatcher(tmp_path: Path) -> Iterator[Dispatcher]:
    node = TinyNode(tmp_path)
    yield Dispatcher(fl_methods(node), batch_max=1)
    node.close()


async def ask(dispatcher: Dispatcher, method: str, admin: bool = False, **params: object) -> Any:
    """The result, or the error's code."""
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    answer = json.loads(await dispatcher.handle(json.dumps(request).encode(), admin=admin) or b"")
    return answer["error"]["code"] if "error" in answer else answer["result"]


async def test_a_blob_comes_in_base64_with_its_size(dispatcher: Dispatcher) -> None:
    part = await ask(dispatcher, "fl_blobPart", digest=UPDATE)
    assert (part["size"], base64.b64decode(part["data"])) == (len(STATE), STATE)
    assert await ask(dispatcher, "fl_blobPart", digest="0x" + "00" * 32) == NOT_FOUND


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("fl_blobPart", {"digest": "0x12"}),
        ("fl_blobPart", {"digest": "zz" * 32}),
        ("fl_blobPart", {"digest": UPDATE, "index": -1}),
        ("fl_model", {"id": 1, "round": 0}),
        ("fl_predict", {"id": 1}),
        ("fl_dataset", {}),
        ("fl_addBatches", {}),
        ("fl_roundBatches", {"id": 1, "round": 0}),
        ("fl_roundBatches", {"id": 1, "round": 1, "attempt": 256}),
        ("fl_addDataset", {"path": "/x", "name": "x", "card": {"label": "y"}}),
        ("fl_addDataset", {"path": "/x", "name": "x", "card": {"label": "y", "classes": [], "more": 1}}),
    ],
)
async def test_parameters_that_make_no_sense_are_refused(
    dispatcher: Dispatcher, method: str, params: dict[str, object]
) -> None:
    assert await ask(dispatcher, method, admin=True, **params) == INVALID_PARAMS


async def test_reading_is_for_everyone_and_changing_or_computing_for_the_owner(dispatcher: Dispatcher) -> None:
    assert [each["name"] for each in await ask(dispatcher, "fl_datasets")] == ["digits"]
    assert (await ask(dispatcher, "fl_dataset", dataset="digits"))["features"] == 64
    assert await ask(dispatcher, "fl_dataset", dataset="nope") == NOT_FOUND
    owners = ("fl_addDataset", "fl_addWeights", "fl_addBatches", "fl_roundBatches", "fl_model", "fl_predict")
    for method in owners:
        assert await ask(dispatcher, method) == NOT_PERMITTED
