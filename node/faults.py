"""What may stop a node through no fault of its own, in one line: what is wrong, where, and what to do about it."""

from __future__ import annotations

import errno
from typing import Any, Final

from chain.consensus import ForkedFinality
from chain.genesis import InvalidNetwork
from chain.store import OtherNetwork, StoreDamaged, StoreError, StoreFull
from node.blobs import BlobError, BlobStoreFull
from node.config import Config, ConfigError
from node.importer import CheckpointContradicted
from node.p2p.types import ListenFailed

OPERATORS: Final = 2  # exit code: a file or an address is wrong, starting again changes nothing
LOCAL: Final = 1  # exit code: the disk or the system failed
FAULTS: Final = (
    ConfigError, InvalidNetwork, ListenFailed, StoreError, BlobError, OSError, ForkedFinality, CheckpointContradicted,
)  # fmt: skip
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def explain(group: BaseExceptionGroup[Any], config: Config) -> tuple[str, int]:
    """The line and the exit code for what stopped the node; the first of several faults says it."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    line, code = _explain(error, config)
    return " ".join(line.split()), code


def _explain(error: BaseException, config: Config) -> tuple[str, int]:
    file = config.file
    match error:
        case ListenFailed():
            advice = f"change `listen` in [p2p] of {file}, or stop what uses the port"
            return f"cannot listen on {error.address}: {error.reason}; {advice}", OPERATORS
        case InvalidNetwork():
            named = str(config.network_path) in str(error)
            return str(error) if named else f"{config.network_path}: {error}", OPERATORS
        case OtherNetwork():
            where = f"{config.chain_path} (`chain` in [node]) and {config.network_path}"
            return f"{error}: {where} do not belong together; use a directory of its own for each network", OPERATORS
        case StoreFull(limited=True):
            advice = f"raise `chain_bytes_max` in [node] of {file} and start again"
            return f"{error} ({config.node.chain_bytes_max} bytes, {config.chain_path}); {advice}", LOCAL
        case StoreFull():
            return f"{error} ({config.chain_path}); make room on the disk, or check it, and start again", LOCAL
        case StoreDamaged():
            advice = f"move {config.chain_path} away and start again: the chain comes back from the peers"
            return f"{error}; {advice}", LOCAL
        case StoreError():
            named = str(config.chain_path) in str(error)
            return str(error) if named else f"{error} ({config.chain_path})", LOCAL
        case BlobStoreFull():
            return f"{error}; raise the limit in {file} and start again", LOCAL
        case OSError():
            where = "" if error.filename is None else f"{error.filename}: "
            advice = "; make room on the disk and start again" if error.errno in _NO_ROOM else ""
            return f"{where}{error.strerror or error}{advice}", LOCAL
        case ForkedFinality():
            advice = "a third of the validators or more is faulty; nothing was written, ask the network's operators"
            return f"{error}: {advice}", LOCAL
        case CheckpointContradicted():
            advice = f"compare `checkpoint` in [node] of {file} with others, or start from an empty chain"
            return f"{error}; {advice}", OPERATORS
        case ConfigError():
            return str(error), OPERATORS
        case _:
            return str(error), LOCAL
