"""The API's two doors: a Unix socket for the node's owner, and optionally HTTP on loopback for everyone on the machine.

Who opens the socket (mode 0600) may call everything. HTTP callers may call admin methods only with the token. A web
page in a browser on this machine is kept out: its Host header is not a loopback name (DNS rebinding), and it cannot
send application/json elsewhere without a preflight, which is never granted.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import hypercorn.config
import hypercorn.trio
import structlog
import trio
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from chain.store import StoreError
from node.api.backend import Backend
from node.api.eth import eth_methods
from node.api.fl import fl_methods
from node.api.jsonrpc import Dispatcher
from node.api.schema import WAIT_S_MAX
from node.blob_store import BlobStoreFailed
from node.config import Config, ConfigError, parse_listen
from node.keys import ensure_token

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = structlog.get_logger()

REQUESTS_MAX: Final = 64  # at once and per door; long polls count
BODY_TIMEOUT_S: Final = 10.0
GRACE_S: Final = 0.2  # for answers on their way when the node stops
LOCAL_FAULTS: Final = (StoreError, BlobStoreFailed)  # met while answering a call, they stop the node
_JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class ApiAddresses:
    """Where the API listens; `http` is the full URL, None when HTTP is off."""

    socket: Path
    http: str | None


async def serve_api(
    config: Config, backend: Backend, *, task_status: TaskStatus[ApiAddresses] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve the API until cancelled; ready once every door is open.

    Raises:
        ConfigError: an address or the socket's path cannot be used; the message says what to do.
        StoreError, BlobStoreFailed: the disk failed while a call was served.
    """
    methods = {**eth_methods(backend, config.api.logs_max), **fl_methods(backend)}
    failed, failures = trio.open_memory_channel[Exception](1)
    dispatcher = Dispatcher(methods, config.api.batch_max, LOCAL_FAULTS, partial(_report, failed))
    limit = config.api.body_bytes_max
    with _unix_socket(config.socket_path) as door:
        doors = [_Door(door, _app(dispatcher, limit, token=None))]
        http = None
        if config.api.http_listen:
            listener = _tcp_socket(config.api.http_listen)
            host, port = listener.getsockname()[:2]
            http = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            doors.append(_Door(listener, _app(dispatcher, limit, token=ensure_token(config.token_path))))
        async with trio.open_nursery() as nursery:
            try:
                for each in doors:
                    await nursery.start(each.serve)
                log.info("api.opened", socket=str(config.socket_path), http=http)
                task_status.started(ApiAddresses(config.socket_path, http))
                raise await failures.receive()
            finally:
                for each in doors:
                    each.close()


def _report(failed: trio.MemorySendChannel[Exception], error: Exception) -> None:
    with suppress(trio.WouldBlock):  # the first one is enough
        failed.send_nowait(error)


class _Door:
    """A bound socket and the app behind it. It outlives the cancellation of its surroundings: `close` ends it."""

    def __init__(self, bound: socket.socket, app: Starlette) -> None:
        self._bound = bound
        self._app = app
        self._scope = trio.CancelScope(shield=True)
        self._active = 0

    async def serve(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with self._scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(partial(hypercorn.trio.serve, self._answer, _Bound(self._bound), mode="asgi"))
                task_status.started()

    def close(self) -> None:
        """At once, or after GRACE_S if an answer is on its way, such as the one to fl_stop."""
        self._scope.deadline = trio.current_time() + (GRACE_S if self._active else 0.0)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":  # the server's own start and end, which last as long as the door
            return await self._app(scope, receive, send)
        self._active += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._active -= 1


class _Bound(hypercorn.config.Config):
    """Hypercorn's settings for one socket that is bound already: then an address in use is our clear error."""

    def __init__(self, bound: socket.socket) -> None:
        super().__init__()
        self._bound = bound
        self.graceful_timeout = GRACE_S
        self.read_timeout = int(WAIT_S_MAX) + 30  # a long poll is silent while it waits
        self.accesslog = None
        self.errorlog = logging.getLogger("hypercorn")
        self.loglevel = "WARNING"
        self.include_server_header = False

    def create_sockets(self) -> hypercorn.config.Sockets:
        return hypercorn.config.Sockets([], [self._bound], [])


def _app(dispatcher: Dispatcher, body_bytes_max: int, token: str | None) -> Starlette:
    """What one door leads to. `token` None: whoever comes through may do everything (the Unix socket)."""
    active = 0

    async def answer(request: Request) -> Response:
        nonlocal active
        if active >= REQUESTS_MAX:
            return PlainTextResponse(f"more than {REQUESTS_MAX} requests at once\n", 503)
        active += 1
        try:
            return await _respond(request, dispatcher, body_bytes_max, token)
        except ClientDisconnect:
            return Response(status_code=400)
        finally:
            active -= 1

    return Starlette(routes=[Route("/", answer, methods=["POST"])])


async def _respond(request: Request, dispatcher: Dispatcher, body_bytes_max: int, token: str | None) -> Response:
    admin = token is None
    if token is not None:
        if not _is_local(request.headers.get("host", "")):
            return PlainTextResponse("the Host header does not name this machine's loopback interface\n", 403)
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if given and not (scheme.lower() == "bearer" and hmac.compare_digest(given.encode(), token.encode())):
            return PlainTextResponse("the token is wrong; it is in the node's api.token\n", 401)
        admin = bool(given)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _JSON:
        return PlainTextResponse(f"send `Content-Type: {_JSON}`\n", 415)
    body = bytearray()
    with trio.move_on_after(BODY_TIMEOUT_S) as timeout:
        async for chunk in request.stream():
            body += chunk
            if len(body) > 2 * body_bytes_max:
                break
    if timeout.cancelled_caught:
        return PlainTextResponse("the request did not arrive in time\n", 408)
    if len(body) > body_bytes_max:  # read somewhat further than that: who is cut off while sending misses the answer
        return PlainTextResponse(f"the request is larger than {body_bytes_max} bytes\n", 413)
    result = await dispatcher.handle(bytes(body), admin=admin)
    return Response(status_code=204) if result is None else Response(result, media_type=_JSON)


def _is_local(host: str) -> bool:
    """Whether a Host header (name or address, optional port) names the loopback interface."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _tcp_socket(listen: str) -> socket.socket:
    host, port = parse_listen(listen)
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(REQUESTS_MAX)
    except OSError as error:
        bound.close()
        advice = "change `http_listen` in [api], or stop what uses the port"
        raise ConfigError(f"cannot listen on {listen}: {error.strerror or error}; {advice}") from None
    bound.setblocking(False)
    return bound


@contextmanager
def _unix_socket(path: Path) -> Iterator[socket.socket]:
    """A listening socket at `path` that only its owner can open; removed on the way out."""
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        umask = os.umask(0o177)
        try:
            bound.bind(str(path))
        finally:
            os.umask(umask)
        bound.listen(REQUESTS_MAX)
    except OSError as error:
        bound.close()
        raise ConfigError(f"cannot open the socket {path} (`socket` in [api]): {error.strerror or error}") from None
    bound.setblocking(False)
    inode = path.stat().st_ino
    try:
        yield bound
    finally:
        bound.close()
        # Another node may have taken the path over meanwhile: only our own socket is removed.
        if path.exists() and path.stat().st_ino == inode:
            path.unlink()


def _remove_stale(path: Path) -> None:
    """Remove a socket that a killed node left behind. Raises ConfigError if a node still answers there."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        else:
            raise ConfigError(f"a node is already running here: it answers at {path}")
