"""A node that answers while a test's commands run: the API over a tiny real chain, in a thread of its own."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import pytest
import trio

sys.path.insert(0, str(Path(__file__).parent.parent / "api"))

from api_kit import TinyNode, config_in, serving


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """The directory of a running node; HTTP is on, its URL in the file `url`."""
    folder = tmp_path / "node"
    config = config_in(folder, '[api]\nhttp_listen = "127.0.0.1:0"\n')
    started: Queue[tuple[trio.lowlevel.TrioToken, trio.CancelScope] | BaseException] = Queue()

    async def serve() -> None:
        node = TinyNode(folder)
        with trio.CancelScope() as scope:
            async with serving(config, node) as addresses:
                (folder / "url").write_text(str(addresses.http))
                started.put((trio.lowlevel.current_trio_token(), scope))
                await trio.sleep_forever()
        node.close()

    def run() -> None:
        try:
            trio.run(serve)
        except BaseException as error:
            started.put(error)

    thread = threading.Thread(target=run)
    thread.start()
    found = started.get(timeout=10)
    assert isinstance(found, tuple), found
    token, scope = found
    yield folder
    trio.from_thread.run_sync(scope.cancel, trio_token=token)
    thread.join(10)
