"""Requests: one stream each, one frame asks, any number of frames answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog
import trio

from node.p2p.links import Link
from node.p2p.streams import Reader, confirm_selection, encode_frame, encode_selection
from node.p2p.types import ConnectionEnded, PeerFault, RequestFailed
from node.p2p.yamux import Stream

log = structlog.get_logger(__name__)


class Replier:
    """The answering end of a request: any number of frames, then the handler returns."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def send(self, frame: bytes) -> None:
        """Raises ConnectionEnded when the asker is gone."""
        await self._stream.send(encode_frame(frame))


class Answer:
    """The asking end of a request."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def next(self, size_max: int) -> bytes | None:
        """The next frame, None after the last. Raises PeerFault above `size_max` bytes, ConnectionEnded."""
        if await self._reader.at_end():
            return None
        return await self._reader.frame(size_max)


Handler = Callable[[str, bytes, Replier], Awaitable[None]]
Refuse = Callable[[str, str], None]


async def open_requested(link: Link, protocol: str, first: bytes) -> tuple[Stream, Reader]:
    """Open a stream to a peer and send `first` without waiting for the peer's consent to the protocol.

    Raises:
        ConnectionEnded, PeerFault.
    """
    stream = link.muxer.open()
    reader = Reader(stream)
    try:
        await stream.send(encode_selection(protocol) + first)
        await confirm_selection(reader, protocol)
    except BaseException:
        stream.reset()
        raise
    return stream, reader


@asynccontextmanager
async def ask(
    link: Link | None, peer: str, protocol: str, request: bytes, timeout_s: float, refuse: Refuse
) -> AsyncIterator[Answer]:
    """Ask a peer and read its answer, within the timeout for all of it.

    Raises:
        RequestFailed: also for what goes wrong inside the block.
    """
    if link is None:
        raise RequestFailed(peer, protocol, "not connected")
    stream = None
    try:
        with trio.fail_after(timeout_s):
            stream, reader = await open_requested(link, protocol, encode_frame(request))
            stream.finish()
            yield Answer(reader)
    except trio.TooSlowError:
        raise RequestFailed(peer, protocol, "too slow") from None
    except ConnectionEnded as error:
        raise RequestFailed(peer, protocol, str(error)) from error
    except PeerFault as error:
        refuse(peer, str(error))
        raise RequestFailed(peer, protocol, str(error), at_fault=True) from error
    finally:
        if stream is not None:
            stream.reset()


async def answer(
    handler: Handler, peer: str, protocol: str, stream: Stream, reader: Reader, size_max: int, timeout_s: float
) -> None:
    """Have `handler` answer one request; given up when the asker gives up. Raises ConnectionEnded, PeerFault."""
    with trio.move_on_after(timeout_s) as patience:
        request = await reader.frame(size_max)
        fault: PeerFault | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_broken, stream, nursery.cancel_scope)
            try:
                await handler(peer, request, Replier(stream))
                stream.finish()
            except (ConnectionEnded, RequestFailed) as error:
                log.debug("request.unanswered", peer=peer, protocol=protocol, reason=str(error))
            except PeerFault as error:
                fault = error
            except Exception:
                log.exception("request.failed", peer=peer, protocol=protocol)
            nursery.cancel_scope.cancel()
        if fault is not None:
            raise fault
    if patience.cancelled_caught:
        log.warning("request.too_slow", peer=peer, protocol=protocol)


async def _cancel_when_broken(stream: Stream, scope: trio.CancelScope) -> None:
    await stream.broken.wait()
    scope.cancel()
