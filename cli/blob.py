"""Bytes between the command line and a node: blobs out of it, checked; files into it, by their path."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cli.client import Client
from cli.errors import NodeError, UserError
from node import unixfs
from node.api import schema


def fetch(client: Client, digest: str, size_max: int) -> bytes:
    """A blob that the node holds; what does not have the digest is refused.

    Args:
        digest: 0x and 64 hex digits.
        size_max: bytes.
    """
    content = bytearray()
    size, index = 1, 0
    while len(content) < size or index == 0:
        part = client.call("fl_blobPart", schema.BlobPart, {"digest": digest, "index": index})
        if part.size > size_max or (len(part.data) < unixfs.LEAF_BYTES and len(content) + len(part.data) < part.size):
            raise NodeError(f"{client.endpoint} does not send the blob {digest} as it announced it")
        size, index = part.size, index + 1
        content += part.data
    if "0x" + unixfs.digest_of(bytes(content)).hex() != digest:
        raise NodeError(f"what {client.endpoint} sent is not the blob {digest}: its digest differs")
    return bytes(content)


@contextmanager
def handed_over(client: Client, content: bytes) -> Iterator[str]:
    """The path of a file with this content for the node to read; gone afterwards.

    It lies in the node's own directory, if that is known: a service may have a /tmp of its own.
    """
    folder = client.endpoint.directory or Path(tempfile.gettempdir())
    try:
        handle, name = tempfile.mkstemp(".tmp", "cli-", folder.resolve())
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        yield name
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from None
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)


def write_file(path: Path, content: bytes) -> None:
    """Whole or not at all; a file of that name is replaced."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror}") from None
