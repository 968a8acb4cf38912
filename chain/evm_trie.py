"""The Merkle Patricia trie (yellow paper, appendix D), read key by key and written in bulk.

`write` takes all of a block's changes at once: it goes down each path one time, and encodes and hashes each changed
node one time, on the way back. The trie package does both for every key anew. Keys are never one another's prefix, so
that a branch holds no value of its own.

A node is what RLP makes of it: b"" for none, [path, value] for a leaf, [path, reference] for an extension, seventeen
references for a branch. A reference is the keccak of the node's encoding, or, if that is shorter than 32 bytes, the
node itself. Paths are written as hexadecimal digits here and as hex-prefixed bytes in a node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import rlp
from eth_hash.auto import keccak

EMPTY_ROOT: Final = keccak(b"\x80")
_BRANCH: Final = 17
_DIGITS: Final = "0123456789abcdef"
_PLACE: Final = {digit: place for place, digit in enumerate(_DIGITS)}
_LONG: Final = 55  # bytes, up to which RLP's length fits its first byte

Node = Any  # b"" | [path, value] | [path, reference] | seventeen references
Items = Sequence[tuple[str, bytes]]  # (whole key in hexadecimal, value), ascending


class MissingNode(Exception):
    """The database lacks a node that the trie refers to."""


class Trie:
    """One trie as it grows; what it reads and writes is remembered with it."""

    def __init__(self, read: Callable[[bytes], bytes], root: bytes = EMPTY_ROOT) -> None:
        """`read` gives a node's encoding by its keccak, or raises KeyError."""
        self.root = root
        self.written: dict[bytes, bytes] = {}
        self._read = read
        self._nodes: dict[bytes, Node] = {}  # decoded

    def get(self, key: bytes) -> bytes:
        """The value, b"" if there is none. Raises MissingNode."""
        path, at = key.hex(), 0
        node = self._root_node()
        while node:
            if len(node) == _BRANCH:
                node = self._node(node[_PLACE[path[at]]])
                at += 1
                continue
            part, leaf = _unpack(node[0])
            if leaf:
                return bytes(node[1]) if path[at:] == part else b""
            if not path.startswith(part, at):
                return b""
            at += len(part)
            node = self._node(node[1])
        return b""

    def write(self, changes: Mapping[bytes, bytes]) -> bytes:
        """Set values by key, b"" deletes. Returns the new root. Raises MissingNode, and then nothing has changed."""
        items = sorted((key.hex(), value) for key, value in changes.items())
        before = self._root_node()
        after = self._changed(before, items, 0) if items else before
        if after is not before:
            encoded = encode(after)
            self.root = keccak(encoded)
            if after:
                self._keep(self.root, encoded, after)
        return self.root

    def _root_node(self) -> Node:
        return b"" if self.root == EMPTY_ROOT else self._node(self.root)

    def _node(self, reference: Node) -> Node:
        if not reference or isinstance(reference, list):
            return reference
        node = self._nodes.get(reference)
        if node is None:
            try:
                node = decode_node(self._read(reference))
            except KeyError as error:
                raise MissingNode(reference.hex()) from error
            self._nodes[reference] = node
        return node

    def _reference(self, node: Node) -> Node:
        if not node:
            return node
        encoded = encode(node)
        if len(encoded) < 32:
            return node
        digest = keccak(encoded)
        self._keep(digest, encoded, node)
        return digest

    def _keep(self, digest: bytes, encoded: bytes, node: Node) -> None:
        self.written[digest] = encoded
        self._nodes[digest] = node

    def _changed(self, node: Node, items: Items, at: int) -> Node:
        """The node with the items in it, whose keys all lead to it by their first `at` digits; itself if equal."""
        if not node:
            return self._made([item for item in items if item[1]], at)
        if len(node) == _BRANCH:
            return self._branch_changed(node, items, at)
        part, leaf = _unpack(node[0])
        return (self._leaf_changed if leaf else self._extension_changed)(node, part, items, at)

    def _made(self, items: Items, at: int) -> Node:
        """A new node that holds these items and nothing else."""
        if not items:
            return b""
        first, last = items[0][0], items[-1][0]
        if len(items) == 1:
            return [_pack(first[at:], leaf=True), items[0][1]]
        shared = _shared(first, last)  # of the lowest and the highest: all between have it too
        node: Node = [b""] * _BRANCH
        for digit, group in _groups(items, shared):
            node[digit] = self._reference(self._made(group, shared + 1))
        return self._extended(first[at:shared], node)

    def _leaf_changed(self, node: Node, part: str, items: Items, at: int) -> Node:
        own = items[0][0][:at] + part
        values = {key: value for key, value in items if value or key == own}
        if values in ({}, {own: node[1]}):
            return node
        values.setdefault(own, node[1])
        return self._made(sorted((key, value) for key, value in values.items() if value), at)

    def _extension_changed(self, node: Node, part: str, items: Items, at: int) -> Node:
        below = items[0][0][:at] + part
        items = [item for item in items if item[1] or item[0].startswith(below)]
        if not items:
            return node
        shared = min(_shared(below, items[0][0]), _shared(below, items[-1][0]))
        if shared == len(below):
            child = self._node(node[1])
            changed = self._changed(child, items, shared)
            return node if changed is child else self._extended(part, changed)
        branch: Node = [b""] * _BRANCH
        rest = below[shared + 1 :]
        branch[_PLACE[below[shared]]] = self._reference([_pack(rest, leaf=False), node[1]]) if rest else node[1]
        return self._extended(part[: shared - at], self._branch_changed(branch, items, shared))

    def _branch_changed(self, node: Node, items: Items, at: int) -> Node:
        after: Node = None
        for digit, group in _groups(items, at):
            child = self._node(node[digit])
            changed = self._changed(child, group, at + 1)
            if changed is not child:
                after = list(node) if after is None else after
                after[digit] = self._reference(changed) if changed else b""
        if after is None:
            return node
        left = [digit for digit in range(_BRANCH) if after[digit]]
        if len(left) > 1:
            return after
        return self._extended(_DIGITS[left[0]], self._node(after[left[0]])) if left else b""

    def _extended(self, part: str, node: Node) -> Node:
        """The node behind a longer path."""
        if not part or not node:
            return node
        if len(node) == _BRANCH:
            return [_pack(part, leaf=False), self._reference(node)]
        rest, leaf = _unpack(node[0])
        return [_pack(part + rest, leaf), node[1]]


def _nothing(key: bytes) -> bytes:
    raise KeyError(key)


def ordered_root(items: Iterable[bytes]) -> bytes:
    """Root of the trie that maps RLP(index) to each item."""
    return Trie(_nothing).write({rlp.encode(index): item for index, item in enumerate(items)})


def _shared(one: str, other: str) -> int:
    """How many digits two keys have in common at their beginning."""
    for at, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return at
    return min(len(one), len(other))


def _groups(items: Items, at: int) -> Iterable[tuple[int, Items]]:
    """Ascending items by their digit at that place."""
    start = 0
    for end in range(1, len(items) + 1):
        if end == len(items) or items[end][0][at] != items[start][0][at]:
            yield _PLACE[items[start][0][at]], items[start:end]
            start = end


def _pack(part: str, leaf: bool) -> bytes:
    """Hex-prefix encoding (yellow paper, appendix C)."""
    flag = 2 if leaf else 0
    return bytes.fromhex(f"{flag + 1}{part}" if len(part) % 2 else f"{flag}0{part}")


def _unpack(packed: bytes) -> tuple[str, bool]:
    digits = packed.hex()
    flag = _PLACE[digits[0]]
    return digits[1 if flag & 1 else 2 :], flag > 1


def encode(item: Any) -> bytes:
    """RLP of bytes and nested lists of bytes."""
    if isinstance(item, bytes):
        if len(item) == 1 and item[0] < 0x80:
            return item
        return _prefix(len(item), 0x80) + item
    parts: list[bytes] = []
    for each in item:
        if not each and each.__class__ is bytes:
            parts.append(b"\x80")
        elif len(each) == 32 and each.__class__ is bytes:
            parts += (b"\xa0", each)
        else:
            parts.append(encode(each))
    body = b"".join(parts)
    return _prefix(len(body), 0xC0) + body


def _prefix(size: int, kind: int) -> bytes:
    if size <= _LONG:
        return bytes((kind + size,))
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((kind + _LONG + len(length),)) + length


def decode_node(encoded: bytes) -> Node:
    """The node of an encoding that this module or the trie package wrote."""
    return _list_at(encoded, 0)[0]


def _list_at(encoded: bytes, at: int) -> tuple[Node, int]:
    first = encoded[at]
    at += 1
    size = first - 0xC0
    if size > _LONG:
        width = size - _LONG
        size = int.from_bytes(encoded[at : at + width], "big")
        at += width
    end = at + size
    items: list[Any] = []
    while at < end:
        first = encoded[at]
        if first == 0xA0:
            items.append(encoded[at + 1 : at + 33])
            at += 33
        elif first == 0x80:
            items.append(b"")
            at += 1
        elif first < 0x80:
            items.append(encoded[at : at + 1])
            at += 1
        elif first < 0xC0:
            item, at = _bytes_at(encoded, at)
            items.append(item)
        else:
            item, at = _list_at(encoded, at)
            items.append(item)
    return items, end


def _bytes_at(encoded: bytes, at: int) -> tuple[bytes, int]:
    size = encoded[at] - 0x80
    at += 1
    if size > _LONG:
        width = size - _LONG
        size = int.from_bytes(encoded[at : at + width], "big")
        at += width
    return encoded[at : at + size], at + size
