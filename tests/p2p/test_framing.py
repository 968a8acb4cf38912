"""Bytes on streams: varints, lines, frames, protocol selection."""

from __future__ import annotations

import contextlib

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from node.p2p.streams import (
    Reader,
    answer_selection,
    confirm_selection,
    decode_message,
    encode_frame,
    encode_line,
    encode_message,
    encode_selection,
    encode_varint,
    read_line,
)
from node.p2p.types import ConnectionEnded, PeerFault


class Script:
    """A stream that says these chunks and then ends; what is sent to it is kept."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = list(chunks)
        self.sent = b""

    async def receive(self) -> bytes:
        return self._chunks.pop(0) if self._chunks else b""

    async def send(self, data: bytes) -> None:
        self.sent += data


def split(data: bytes, size: int) -> Script:
    return Script(*(data[at : at + size] for at in range(0, len(data), size)))


@given(st.integers(0, (1 << 63) - 1), st.integers(1, 4))
@settings(max_examples=50)
def test_a_varint_is_read_as_it_was_written(value: int, chunk: int) -> None:
    assert trio.run(Reader(split(encode_varint(value), chunk)).varint) == value


@given(st.text(max_size=50), st.binary(max_size=300), st.integers(1, 50))
@settings(max_examples=50)
def test_a_message_is_read_as_it_was_written(kind: str, payload: bytes, chunk: int) -> None:
    async def check() -> None:
        reader = Reader(split(encode_message(kind, payload) * 2, chunk))
        for _ in range(2):
            assert decode_message(await reader.frame(1000)) == (kind, payload)
        assert await reader.at_end()

    trio.run(check)


@given(st.binary(max_size=300))
@settings(max_examples=100)
def test_no_bytes_raise_anything_but_a_fault_or_an_end(data: bytes) -> None:
    async def check() -> None:
        for read in (
            lambda reader: reader.frame(100),
            lambda reader: reader.sized(100),
            read_line,
            lambda reader: answer_selection(Script(), reader, lambda: ("/x",)),
            lambda reader: confirm_selection(reader, "/x"),
        ):
            with contextlib.suppress(PeerFault, ConnectionEnded):
                await read(Reader(Script(data)))
        with contextlib.suppress(PeerFault):
            decode_message(data)

    trio.run(check)


async def test_a_length_above_the_limit_is_refused_before_anything_is_read() -> None:
    with pytest.raises(PeerFault, match="a frame of 1001 bytes, the limit is 1000"):
        await Reader(Script(encode_frame(bytes(1001)))).frame(1000)
    with pytest.raises(PeerFault, match="announces 1001 bytes"):
        await Reader(Script(encode_varint(1001))).sized(1000)
    with pytest.raises(PeerFault, match="longer than 9"):
        await Reader(Script(b"\x80" * 10)).varint()


async def test_what_was_read_ahead_is_handed_on() -> None:
    reader = Reader(Script(b"abcdef"))
    assert await reader.exactly(2) == b"ab"
    assert reader.take_rest() == b"cdef"


async def test_both_ends_agree_on_a_protocol() -> None:
    opener = encode_selection("/new/2") + encode_line("/old/1") + b"first data"
    stream = Script(opener)
    reader = Reader(stream)
    assert await answer_selection(stream, reader, lambda: ("/old/1",)) == "/old/1"
    assert reader.take_rest() == b"first data"
    assert stream.sent == encode_line("/multistream/1.0.0") + encode_line("na") + encode_line("/old/1")
    await confirm_selection(Reader(Script(encode_selection("/old/1"))), "/old/1")
    with pytest.raises(ConnectionEnded, match="does not speak /new/2"):
        await confirm_selection(Reader(Script(stream.sent)), "/new/2")


async def test_first_data_after_a_refused_protocol_is_no_fault() -> None:
    stream = Script(encode_selection("/unknown/1") + encode_frame(b"request"))
    with pytest.raises(ConnectionEnded, match="not spoken here"):
        await answer_selection(stream, Reader(stream), lambda: ("/x",))


async def test_endless_tries_are_a_fault() -> None:
    stream = Script(encode_line("/multistream/1.0.0") + encode_line("/x") * 100)
    with pytest.raises(PeerFault, match="too many"):
        await answer_selection(stream, Reader(stream), lambda: ())


def test_a_kind_of_more_than_255_bytes_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="kind of 256 bytes"):
        encode_message("k" * 256, b"")
