"""The datasets of this node: names given by its owner, kept in the node's database; the bytes are blobs.

A named dataset's blob is public and pinned: whoever works on a job over it fetches it from here.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Final

import msgspec
import trio

from chain.store import Store
from learner import data
from learner.card import Card
from learner.data import Dataset
from learner.errors import InvalidDataset
from learner.manifest import DATASET_BYTES_MAX
from node import unixfs
from node.api import schema
from node.api.backend import BackendError, NotFound
from node.blobs import BlobError, BlobExchange, BlobStore

BUILT_IN: Final = {"digits": data.digits}
FETCH_S: Final = 10.0  # how long a dataset that is not here is looked for at the peers
_NAMESPACE: Final = "datasets"
_DIGITS_CARD: Final = Card(label="digit", classes=tuple("0123456789"), scale=(1 / 16,))
_NAME: Final = re.compile(schema.DATASET_NAME)
_DIGEST: Final = re.compile(r"0x[0-9a-fA-F]{64}")


class Datasets:
    """See the module."""

    def __init__(self, store: Store, blobs: BlobStore, exchange: BlobExchange) -> None:
        self._store, self._blobs, self._exchange = store, blobs, exchange
        self._built_in: dict[str, schema.DatasetInfo] = {}
        for info in self._named().values():
            blobs.pin(bytes.fromhex(info.digest[2:]))

    def list(self) -> list[schema.DatasetInfo]:
        """Every dataset with a name, the built-in ones first."""
        return [*(self._built(name) for name in BUILT_IN), *self._named().values()]

    async def info(self, text: str) -> schema.DatasetInfo:
        """A dataset that is here, by name, 0x digest or CID.

        Raises:
            NotFound.
            BackendError: it is no dataset.
        """
        digest = self._digest(text)
        for info in self.list():
            if info.digest == _hex(digest):
                return info
        if not self._blobs.has(digest):
            raise NotFound(f"dataset {text} is not here; `flnode data list` shows those that are")
        size, contents = await self._read(digest)
        return msgspec.structs.replace(_described(digest, size, contents), card=_card_of(contents, _hex(digest)))

    async def find(self, text: str) -> tuple[bytes, int, Dataset]:
        """(digest, bytes, contents) of a dataset for a job; one that is not here is looked for at the peers.

        Raises:
            NotFound, BackendError.
        """
        digest = self._digest(text)
        try:
            if text in BUILT_IN:
                self._blobs.put(BUILT_IN[text]())
            elif not self._blobs.has(digest):
                await self._exchange.fetch(digest, DATASET_BYTES_MAX, deadline_s=FETCH_S)
        except BlobError:
            raise NotFound(f"dataset {text} is neither here nor at a connected peer") from None
        self._blobs.publish(digest)
        size, contents = await self._read(digest)
        return digest, size, contents

    async def add(self, path: str, name: str, card: Card | None, replace: bool) -> schema.DatasetInfo:
        """Keep the dataset in a file, under a name.

        Args:
            card: kept here alone, of a dataset that does not hold its own.
        Raises:
            BackendError: the file is no dataset, the name is taken, the card does not fit.
        """
        if not _NAME.fullmatch(name) or name in BUILT_IN:
            raise BackendError(f"{name!r} cannot name a dataset: {schema.DATASET_NAME_RULE}")
        content = await trio.to_thread.run_sync(read_plain, path, DATASET_BYTES_MAX)
        contents = await trio.to_thread.run_sync(_decode, content, path)
        own = _card_of(contents, path)
        if card is not None:
            _check_card(card, own, contents)
        digest = await trio.to_thread.run_sync(unixfs.digest_of, content)
        known = self._named().get(name)
        if known is not None and known.digest != _hex(digest) and not replace:
            raise BackendError(f"another dataset is called {name} ({known.cid}); choose --name, or --replace it")
        try:
            await trio.to_thread.run_sync(lambda: self._blobs.put(content, public=True))
        except BlobError as error:
            raise BackendError(str(error)) from None
        self._blobs.pin(digest)
        info = msgspec.structs.replace(_described(digest, len(content), contents), name=name, card=own or card)
        self._store.kv_put(_NAMESPACE, name.encode(), msgspec.msgpack.encode(info))
        return info

    def _named(self) -> dict[str, schema.DatasetInfo]:
        stored = self._store.kv_items(_NAMESPACE)
        return {key.decode(): msgspec.msgpack.decode(value, type=schema.DatasetInfo) for key, value in stored}

    def _built(self, name: str) -> schema.DatasetInfo:
        if name not in self._built_in:
            content = BUILT_IN[name]()
            info = _described(unixfs.digest_of(content), len(content), data.decode(content))
            self._built_in[name] = msgspec.structs.replace(info, name=name, built_in=True, card=_DIGITS_CARD)
        return self._built_in[name]

    def _digest(self, text: str) -> bytes:
        """The digest that a name, a digest or a CID means. Raises NotFound."""
        if text in BUILT_IN:
            return bytes.fromhex(self._built(text).digest[2:])
        if _DIGEST.fullmatch(text):
            return bytes.fromhex(text[2:])
        if (named := self._named().get(text)) is not None:
            return bytes.fromhex(named.digest[2:])
        try:
            return unixfs.parse_cid(text)
        except ValueError:
            known = ", ".join(info.name or "" for info in self.list())
            raise NotFound(f"there is no dataset {text!r} here (known: {known}); `flnode data add` makes one") from None

    async def _read(self, digest: bytes) -> tuple[int, Dataset]:
        """(bytes, contents). Raises BackendError."""
        try:
            content = await trio.to_thread.run_sync(self._blobs.get, digest)
        except BlobError as error:
            raise BackendError(str(error)) from None
        return len(content), await trio.to_thread.run_sync(_decode, content, _hex(digest))


def read_plain(path: str, bytes_max: int) -> bytes:
    """The content of an ordinary file; the caller is trusted, but not to name a device or a pipe by mistake.

    Raises:
        BackendError.
    """
    if not Path(path).is_absolute():
        raise BackendError(f"{path}: give the whole path")
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > bytes_max:
                raise BackendError(f"{path}: not an ordinary file of at most {bytes_max} bytes")
            return file.read(bytes_max)
    except OSError as error:
        raise BackendError(f"the node cannot read {path}: {error.strerror}") from None


def _decode(content: bytes, source: str) -> Dataset:
    try:
        return data.decode(content)
    except InvalidDataset as error:
        raise BackendError(f"{source}: {error}") from None


def _card_of(contents: Dataset, source: str) -> Card | None:
    """The card that lies in the dataset itself."""
    try:
        return contents.card
    except InvalidDataset as error:
        raise BackendError(f"{source}: {error}") from None


def _check_card(card: Card, own: Card | None, contents: Dataset) -> None:
    if own is not None and own != card:
        raise BackendError("the dataset holds another card than the one that was given")
    try:
        card.check(contents.sample_features, contents.classes)
    except InvalidDataset as error:
        raise BackendError(str(error)) from None


def _described(digest: bytes, size: int, contents: Dataset) -> schema.DatasetInfo:
    return schema.DatasetInfo(
        digest=_hex(digest), cid=unixfs.cid(digest, size), size=size, element=contents.element, scale=contents.scale,
        shape=list(contents.shape), features=contents.sample_features, classes=contents.classes, train=contents.train,
        test=contents.test,
    )  # fmt: skip


def _hex(digest: bytes) -> str:
    return "0x" + digest.hex()
