"""What stopped a node, as one line and an exit code, however deep in exception groups it was."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from chain.genesis import InvalidNetwork
from chain.store import OtherNetwork, StoreError, StoreFull
from node.blobs import BlobStoreFull
from node.config import Config, ConfigError
from node.faults import FAULTS, explain
from node.p2p.types import ListenFailed

CONFIG = Config(directory=Path("/d"))


def group(error: Exception) -> ExceptionGroup[Exception]:
    """As it comes out of nested nurseries, beside something later."""
    return ExceptionGroup("nursery", [ExceptionGroup("nursery", [error]), StoreError("a consequence")])


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("`x` is\nwrong"), 2, "`x` is wrong"),
        (InvalidNetwork("network file: missing key `name`"), 2, "/d/network.toml: network file: missing key `name`"),
        (InvalidNetwork("cannot read /d/network.toml: gone"), 2, "cannot read /d/network.toml: gone"),
        (ListenFailed("/ip4/1.2.3.4/tcp/9", "in use"), 2, "change `listen` in [p2p] of /d/node.toml"),
        (OtherNetwork("the chain database belongs to another network"), 2, "/d/chain (`chain` in [node])"),
        (StoreFull("full", limited=True), 1, "raise `chain_bytes_max` in [node] of /d/node.toml"),
        (StoreFull("full", limited=False), 1, "full (/d/chain); make room on the disk"),
        (StoreError("damaged"), 1, "damaged (/d/chain)"),
        (StoreError("cannot open /d/chain"), 1, "cannot open /d/chain"),
        (BlobStoreFull(9, 5), 1, "raise the limit in /d/node.toml and start again"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/d/x"), 1, "/d/x: No space left on device; make room"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), 1, "Too many open files"),
        (OSError("no number"), 1, "no number"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_the_first_fault_is_one_line_that_names_the_key_or_the_file(error: Exception, code: int, line: str) -> None:
    assert isinstance(error, FAULTS)
    text, found = explain(group(error), CONFIG)
    assert (found, "\n" in text) == (code, False)
    assert line in text
