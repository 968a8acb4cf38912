"""The secured connection: multistream, Noise (py-libp2p 0.8.1), yamux negotiated.

With libp2p_gossip.py the only place that imports libp2p. Its swarm, host and muxer are not used: there every dial waits
250 ms, a failed dial blocks the peer for 60 s, the slot of an inbound connection is never given back, the port is
shared with whoever else listens there (SO_REUSEPORT), ten system tasks have no owner, a length from a stranger is
allocated before the handshake, and any exception in a handler ends the host.
"""

from __future__ import annotations

from typing import Any, Final, cast

import trio
from libp2p.crypto.ed25519 import create_new_key_pair as new_ed25519
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as new_x25519
from libp2p.peer.id import ID
from libp2p.security.noise.patterns import PatternXX

from node.p2p.streams import Reader, answer_selection, confirm_selection, encode_selection
from node.p2p.types import ConnectionEnded, PeerFault

NOISE: Final = "/noise"
YAMUX: Final = "/yamux/1.0.0"
_RECEIVE_BYTES: Final = 64 * 1024
_NOISE_MESSAGE_MAX: Final = 65_535 - 16


class Identity:
    """A node's keys. `seed`: 32 bytes, of the Ed25519 key behind the peer id."""

    def __init__(self, seed: bytes) -> None:
        if len(seed) != 32:
            raise ValueError(f"p2p: the key is {len(seed)} bytes, expected 32")
        self.keys: KeyPair = new_ed25519(seed)
        self.noise_key = new_x25519().private_key  # only proves itself through a signature of the Ed25519 key
        self.id = ID.from_pubkey(self.keys.public_key)

    @property
    def peer(self) -> str:
        return self.id.to_base58()


class _PlainPipe:
    """A TCP stream before the handshake is done; also what the library's handshake reads and writes."""

    def __init__(self, socket: trio.SocketStream) -> None:
        self._socket = socket
        self.reader = Reader(self)

    async def receive(self) -> bytes:
        try:
            return bytes(await self._socket.receive_some(_RECEIVE_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionEnded("connection broken") from error

    async def send(self, data: bytes) -> None:
        try:
            await self._socket.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionEnded("connection broken") from error

    async def read(self, size: int) -> bytes:
        return await self.reader.exactly(size)

    write = send


class NoisePipe:
    """A yamux.Pipe over Noise: whole messages are decrypted from a buffer, two system calls a message fewer."""

    def __init__(self, plain: _PlainPipe, socket: trio.SocketStream, noise: Any, leftover: bytes) -> None:
        self._plain, self._socket, self._noise = plain, socket, noise
        self._cipher = bytearray(leftover)
        self.bytes_in = self.bytes_out = 0

    @property
    def local_host(self) -> str:
        """The IP address of this end of the connection."""
        return str(self._socket.socket.getsockname()[0])

    async def receive(self) -> bytes:
        while True:
            text = self._decrypt_buffered()
            if text:
                self.bytes_in += len(text)
                return text
            chunk = await self._plain.receive()
            if not chunk:
                return b""
            self._cipher += chunk

    async def send(self, data: bytes) -> None:
        self.bytes_out += len(data)
        if len(data) <= _NOISE_MESSAGE_MAX:
            await self._plain.send(self._encrypt(data))
            return
        parts = (data[at : at + _NOISE_MESSAGE_MAX] for at in range(0, len(data), _NOISE_MESSAGE_MAX))
        await self._plain.send(b"".join(map(self._encrypt, parts)))

    def abort(self) -> None:
        self._socket.socket.close()

    def _encrypt(self, text: bytes) -> bytes:
        cipher: bytes = self._noise.encrypt(text)
        return len(cipher).to_bytes(2, "big") + cipher

    def _decrypt_buffered(self) -> bytes:
        texts, at, buffer = [], 0, self._cipher
        while len(buffer) - at >= 2:
            end = at + 2 + int.from_bytes(buffer[at : at + 2], "big")
            if len(buffer) < end:
                break
            try:
                texts.append(self._noise.decrypt(bytes(buffer[at + 2 : end])))
            except Exception as error:  # whichever the cipher's library raises
                raise PeerFault("a message that does not decrypt") from error
            at = end
        del buffer[:at]
        return b"".join(texts)


async def secure(
    socket: trio.SocketStream, identity: Identity, *, initiator: bool, expected: str | None
) -> tuple[str, NoisePipe, bytes]:
    """Agree on Noise and yamux over a fresh TCP connection; only these two are offered.

    Args:
        expected: the peer id that was dialled, if it is known.
    Returns:
        the proven peer id, the secured pipe, and what was read from it too early.
    Raises:
        PeerFault: garbage, a wrong signature, another peer id. ConnectionEnded.
    """
    plain = _PlainPipe(socket)
    await _agree(plain, plain.reader, NOISE, initiator)
    pattern = PatternXX(identity.id, identity.keys.private_key, identity.noise_key)
    try:
        if initiator:
            known = None if expected is None else ID.from_base58(expected)
            session: Any = await pattern.handshake_outbound(cast(Any, plain), known)
        else:
            session = await pattern.handshake_inbound(cast(Any, plain))
    except (ConnectionEnded, PeerFault):
        raise
    except Exception as error:  # a dozen types, whatever a stranger's bytes provoke in the library
        raise PeerFault(f"handshake: {type(error).__name__}") from error
    pipe = NoisePipe(plain, socket, session.conn.noise_state, plain.reader.take_rest())
    reader = Reader(pipe)
    await _agree(pipe, reader, YAMUX, initiator)
    return session.get_remote_peer().to_base58(), pipe, reader.take_rest()


async def _agree(pipe: _PlainPipe | NoisePipe, reader: Reader, protocol: str, initiator: bool) -> None:
    if initiator:
        await pipe.send(encode_selection(protocol))
        await confirm_selection(reader, protocol)
    else:
        await answer_selection(pipe, reader, lambda: (protocol,))
