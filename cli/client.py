"""The command line's side of the JSON-RPC API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
import msgspec

from cli.errors import NodeError, UserError

T = TypeVar("T")
TIMEOUT_S: Final = 15.0
NOT_PERMITTED: Final = -32010


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a node's API is: its Unix socket, or a URL and perhaps a token. `directory` is the node's, if known."""

    socket: Path | None = None
    url: str | None = None
    token: str | None = None
    directory: Path | None = None

    def __str__(self) -> str:
        return self.url or str(self.socket)


class NodeRefused(NodeError):
    """The node answered with an error. `code` is the JSON-RPC error code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class NodeUnreachable(NodeError):
    """Nobody answers there."""


class Client:
    """Calls one node. Use as a context manager."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        headers = {} if endpoint.token is None else {"Authorization": f"Bearer {endpoint.token}"}
        transport = None if endpoint.socket is None else httpx.HTTPTransport(uds=str(endpoint.socket))
        self._url = endpoint.url or "http://localhost/"
        try:
            # trust_env off: a proxy for the web is no way to a node on this machine
            self._http = httpx.Client(transport=transport, headers=headers, timeout=TIMEOUT_S, trust_env=False)
        except ValueError as error:
            raise UserError(f"the token cannot be sent: {error}") from None
        self._ids = count(1)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def call(self, method: str, kind: type[T], params: Mapping[str, object] | None = None, wait_s: float = 0) -> T:
        """Call `method` and convert its result to `kind`.

        Args:
            params: the method's parameters by name.
            wait_s: how long the node may take on purpose (long polls), on top of the usual time-out.
        Raises:
            NodeUnreachable, NodeRefused: one line for the user.
        """
        request = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": dict(params or {})}
        try:
            response = self._http.post(
                self._url,
                content=msgspec.json.encode(request),
                headers={"Content-Type": "application/json"},
                timeout=TIMEOUT_S + wait_s,
            )
        except httpx.TimeoutException:
            waited = f"{TIMEOUT_S + wait_s:.0f} s"
            raise NodeUnreachable(f"the node at {self.endpoint} does not answer within {waited}") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise UserError(f"{self.endpoint} is not a URL of a node: {error}") from None
        except (httpx.RemoteProtocolError, httpx.DecodingError) as error:
            raise NodeError(self._stranger(str(error))) from None
        except httpx.TransportError as error:
            raise NodeUnreachable(self._unreachable(error)) from None
        if response.status_code != 200:
            text = response.text.strip().split("\n")[0][:200]
            raise NodeRefused(f"the node at {self.endpoint} answered {response.status_code}: {text}", 0)
        return self._result(response.content, kind)

    def _result(self, body: bytes, kind: type[T]) -> T:
        try:
            answer: dict[str, Any] = msgspec.json.decode(body, type=dict)
            if error := answer.get("error"):
                raise NodeRefused(" ".join(str(error["message"]).split()), int(error["code"]))
            return msgspec.convert(answer.get("result"), kind)
        except (msgspec.DecodeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise NodeError(self._stranger(str(error))) from None

    def _stranger(self, reason: str) -> str:
        return f"what answers at {self.endpoint} is no flnode node of this version: {reason}"

    def _unreachable(self, error: httpx.TransportError) -> str:
        path = self.endpoint.socket
        if isinstance(error, httpx.ReadError | httpx.WriteError):
            return f"the node at {self.endpoint} broke off while answering ({error}); its log may say why"
        if path is None:
            return f"no node answers at {self.endpoint}: {error}"
        if not path.exists():
            return f"no node is running here: there is no socket at {path}; start it with `{self._start}`"
        if not path.is_socket():
            return f"{path} is not a socket; check `socket` in [api] of the node's file"
        return f"no node answers at {path} ({error}); start it with `{self._start}`"

    @property
    def _start(self) -> str:
        return f"flnode start --config {self.endpoint.directory or 'DIR'}"
