"""Framing on streams.

Protocol selection is multistream-select 1.0, https://github.com/multiformats/multistream-select: each end says
"/multistream/1.0.0", the opener names a protocol, the other echoes it or answers "na"; every line is an unsigned
varint, the text and a line feed. The opener sends its first data at once, without waiting for the echo.

Frames (persistent stream, requests and answers): 4-byte big-endian length, then that many bytes. A frame of the
persistent stream is a 1-byte length, the kind (UTF-8), the payload. Kind "" is a sign of life: payload b"?" asks for
one, b"!" is one. The first frame each way has kind "hello".
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection
from typing import Final, Protocol

from node.p2p.types import ConnectionEnded, PeerFault

MULTISTREAM: Final = "/multistream/1.0.0"
REFUSED: Final = "na"
HELLO: Final = "hello"
ALIVE: Final = ""
ARE_YOU_THERE: Final = b"?"
I_AM: Final = b"!"

_LINE_MAX: Final = 256
_SELECTIONS_MAX: Final = 16  # protocols that one opener may try on one stream
_LENGTH: Final = struct.Struct(">I")
_KIND_MAX: Final = 255


class Duplex(Protocol):
    """What a yamux stream and a secured pipe have in common."""

    async def receive(self) -> bytes: ...

    async def send(self, data: bytes) -> None: ...


class Reader:
    """Exact reads from something that delivers chunks; never reads ahead of what arrived, never past a limit."""

    def __init__(self, source: Duplex) -> None:
        self._source = source
        self._buffer = bytearray()
        self._at = 0

    async def exactly(self, size: int) -> bytes:
        """Raises ConnectionEnded when the source ends first."""
        while len(self._buffer) - self._at < size:
            await self._more()
        at = self._at
        self._at = at + size
        return bytes(self._buffer[at : self._at])

    async def at_end(self) -> bool:
        """Whether nothing more comes; waits for the next byte or the end."""
        if len(self._buffer) > self._at:
            return False
        chunk = await self._source.receive()
        self._buffer += chunk
        return not chunk

    async def varint(self) -> int:
        """Unsigned LEB128 of up to 9 bytes."""
        value = 0
        for shift in range(0, 63, 7):
            byte = (await self.exactly(1))[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise PeerFault("a varint longer than 9 bytes")

    async def sized(self, size_max: int) -> bytes:
        """A varint length and that many bytes, at most `size_max`."""
        size = await self.varint()
        if size > size_max:
            raise PeerFault(f"announces {size} bytes, the limit is {size_max}")
        return await self.exactly(size)

    async def frame(self, size_max: int) -> bytes:
        """A 4-byte length and that many bytes, at most `size_max`."""
        (size,) = _LENGTH.unpack(await self.exactly(4))
        if size > size_max:
            raise PeerFault(f"announces a frame of {size} bytes, the limit is {size_max}")
        return await self.exactly(size)

    def take_rest(self) -> bytes:
        """What has arrived and was not read; hands the source over to another reader."""
        rest = bytes(self._buffer[self._at :])
        self._buffer.clear()
        self._at = 0
        return rest

    async def _more(self) -> None:
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        chunk = await self._source.receive()
        if not chunk:
            raise ConnectionEnded("closed by the peer")
        self._buffer += chunk


def encode_varint(value: int) -> bytes:
    """Unsigned LEB128 of a value >= 0."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_line(text: str) -> bytes:
    data = text.encode() + b"\n"
    return encode_varint(len(data)) + data


def encode_selection(protocol: str) -> bytes:
    """What the opener of a stream says first; its first data may follow at once."""
    return encode_line(MULTISTREAM) + encode_line(protocol)


async def read_line(reader: Reader) -> str:
    data = await reader.sized(_LINE_MAX)
    if not data.endswith(b"\n"):
        raise PeerFault("a protocol line without its end")
    try:
        return data[:-1].decode()
    except UnicodeDecodeError:
        raise PeerFault("a protocol name that is not text") from None


async def confirm_selection(reader: Reader, protocol: str) -> None:
    """Read the other side's answer to `encode_selection`.

    Raises:
        ConnectionEnded: it does not speak the protocol, or is gone.
        PeerFault: it does not speak multistream.
    """
    if await read_line(reader) != MULTISTREAM:
        raise PeerFault("does not speak multistream")
    answer = await read_line(reader)
    if answer == REFUSED:
        raise ConnectionEnded(f"does not speak {protocol}")
    if answer != protocol:
        raise PeerFault(f"answered {answer[:40]!r} to {protocol}")


async def answer_selection(stream: Duplex, reader: Reader, supported: Callable[[], Collection[str]]) -> str:
    """Agree on a protocol for a stream that the peer opened.

    Raises:
        PeerFault: it does not speak multistream, or nothing that is supported.
        ConnectionEnded.
    """
    await stream.send(encode_line(MULTISTREAM))
    if await read_line(reader) != MULTISTREAM:
        raise PeerFault("does not speak multistream")
    for selection in range(_SELECTIONS_MAX):
        try:
            protocol = await read_line(reader)
        except PeerFault as error:
            if selection:  # first data that followed a protocol which we refused
                raise ConnectionEnded("wanted a protocol that is not spoken here") from error
            raise
        if protocol in supported():
            await stream.send(encode_line(protocol))
            return protocol
        await stream.send(encode_line(REFUSED))
    raise PeerFault("tries too many protocols")


def encode_frame(payload: bytes) -> bytes:
    return _LENGTH.pack(len(payload)) + payload


def encode_message(kind: str, payload: bytes) -> bytes:
    """A frame of the persistent stream; `kind` is at most 255 bytes of UTF-8."""
    name = kind.encode()
    if len(name) > _KIND_MAX:
        raise ValueError(f"kind of {len(name)} bytes")
    return b"".join((_LENGTH.pack(1 + len(name) + len(payload)), bytes((len(name),)), name, payload))


def decode_message(frame: bytes) -> tuple[str, bytes]:
    """The kind and payload of a persistent stream's frame.

    Raises:
        PeerFault.
    """
    if not frame or len(frame) < 1 + frame[0]:
        raise PeerFault("a message without its kind")
    end = 1 + frame[0]
    try:
        return frame[1:end].decode(), frame[end:]
    except UnicodeDecodeError:
        raise PeerFault("a kind that is not text") from None
