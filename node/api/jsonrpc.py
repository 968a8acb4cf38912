"""JSON-RPC 2.0, without any transport: bytes in, bytes out.

A method is a coroutine that takes one frozen struct: its fields are the method's parameters, positional in the order
of the fields, or named. Batches are answered in order; notifications (calls without an id) are carried out and not
answered, as the specification says. Nothing that a caller sends makes `handle` raise.

Everything is decoded to a type, never to plain lists and dicts: py-evm raises Python's recursion limit so far that an
untyped decoder, fed with a hundred thousand opening brackets, overflows the C stack and takes the process with it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

import msgspec
import structlog

log = structlog.get_logger()

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
# the server's own range; -32001, -32003 and -32005 as in EIP-1474
SERVER_ERROR: Final = -32000
NOT_FOUND: Final = -32001
TRANSACTION_REJECTED: Final = -32003
LIMIT_EXCEEDED: Final = -32005
NOT_PERMITTED: Final = -32010
EXECUTION_REVERTED: Final = 3  # with the revert data, as Ethereum's clients expect

_Id = str | int | float | None


class _Incoming(msgspec.Struct, frozen=True):
    """One call as it comes in."""

    jsonrpc: Literal["2.0"]
    method: str
    id: _Id | msgspec.UnsetType = msgspec.UNSET  # unset: a notification
    params: msgspec.Raw = msgspec.Raw()


class _Identity(msgspec.Struct, frozen=True):
    """What is needed of a call that is refused."""

    id: _Id = None


_MALFORMED: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_SPACE: Final = b" \t\r\n"
_encoder: Final = msgspec.json.Encoder()


class RpcError(Exception):
    """An answer with an error: code, one line of text, and optional data."""

    def __init__(self, code: int, message: str, data: object = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class NoParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For methods that take none."""


Handler = Callable[[Any], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Method:
    """One callable name. `admin` methods sign with the node's key or change the node."""

    params: type[msgspec.Struct]
    handler: Handler
    admin: bool = False


class Dispatcher:
    """Answers requests from a table of methods.

    Args:
        methods: by their full name, such as "eth_call".
        batch_max: most calls in one request.
        local_faults: exceptions that mean that the node cannot go on, such as a full disk.
        on_local_fault: told of these; the caller is answered first.
    """

    def __init__(
        self,
        methods: Mapping[str, Method],
        batch_max: int,
        local_faults: tuple[type[Exception], ...] = (),
        on_local_fault: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        self._methods = methods
        self._batch_max = batch_max
        self._local_faults = local_faults
        self._on_local_fault = on_local_fault

    async def handle(self, body: bytes, *, admin: bool) -> bytes | None:
        """The response's bytes, or None if the request has only notifications.

        Args:
            body: the request as it came.
            admin: whether the caller may call admin methods.
        """
        try:
            if not body.lstrip(_SPACE).startswith(b"["):
                answer = await self._answer(msgspec.Raw(body), admin)
                return None if answer is None else _encoder.encode(answer)
            calls = _decoder(list[msgspec.Raw]).decode(body)
        except _MALFORMED as error:
            return _encoder.encode(_error(None, PARSE_ERROR, f"not valid JSON: {error}"))
        if not calls:
            return _encoder.encode(_error(None, INVALID_REQUEST, "an empty batch"))
        if len(calls) > self._batch_max:
            text = f"{len(calls)} calls in one batch; the limit is {self._batch_max}"
            return _encoder.encode(_error(None, LIMIT_EXCEEDED, text))
        answers = [answer for call in calls if (answer := await self._answer(call, admin)) is not None]
        return _encoder.encode(answers) if answers else None

    async def _answer(self, raw: msgspec.Raw, admin: bool) -> dict[str, object] | None:
        """The answer to one call; None for a notification. Raises what is in _MALFORMED if it is not JSON."""
        try:
            call = _decoder(_Incoming).decode(raw)
        except msgspec.ValidationError as error:
            return _error(_identity(raw), INVALID_REQUEST, f"not a JSON-RPC 2.0 call: {_plain(error)}")
        identity = None if call.id is msgspec.UNSET else call.id
        try:
            result = await self._call(call.method, call.params, admin)
            answer: dict[str, object] = {"jsonrpc": "2.0", "id": identity, "result": result}
        except RpcError as error:
            answer = _error(identity, error.code, error.message, error.data)
        except self._local_faults as error:
            answer = _error(identity, SERVER_ERROR, f"{error}; the node stops")
            self._on_local_fault(error)
        except Exception:
            # Our own bug: the log gets the traceback, the caller does not. One bad call must not end the node.
            log.exception("api.call_failed", method=call.method)
            answer = _error(identity, INTERNAL_ERROR, f"internal error in {call.method}; the node's log says more")
        return None if call.id is msgspec.UNSET else answer

    async def _call(self, name: str, params: msgspec.Raw, admin: bool) -> object:
        method = self._methods.get(name)
        if method is None:
            raise RpcError(METHOD_NOT_FOUND, f"the method {name} does not exist")
        if method.admin and not admin:
            raise RpcError(NOT_PERMITTED, f"{name} needs the node's Unix socket or its token (Authorization: Bearer)")
        try:
            converted = _convert_params(name, bytes(params), method.params)
        except (msgspec.ValidationError, RecursionError) as error:
            raise RpcError(INVALID_PARAMS, f"{name}: {_plain(error)}") from None
        return await method.handler(converted)


def _convert_params(name: str, params: bytes, kind: type[msgspec.Struct]) -> msgspec.Struct:
    """Raises RpcError, and msgspec.ValidationError for what has the wrong type."""
    if params in (b"", b"null"):
        params = b"{}"
    if params.startswith(b"{"):
        converted: msgspec.Struct = _decoder(kind).decode(params)
        return converted
    if not params.startswith(b"["):
        raise RpcError(INVALID_PARAMS, "`params` is an array or an object")
    given = _decoder(list[msgspec.Raw]).decode(params)
    fields = msgspec.structs.fields(kind)
    if len(given) > len(fields):
        raise RpcError(INVALID_PARAMS, f"{name} takes at most {len(fields)} parameters, got {len(given)}")
    values: dict[str, Any] = {}
    for field, raw in zip(fields, given, strict=False):
        # Clients pad optional places with null; it means "left out".
        if field.required or bytes(raw) != b"null":
            try:
                values[field.name] = _decoder(field.type).decode(raw)
            except msgspec.ValidationError as error:
                raise RpcError(INVALID_PARAMS, f"{name}: parameter `{field.name}`: {_plain(error)}") from None
    for field in fields[len(given) :]:
        if field.required:
            raise RpcError(INVALID_PARAMS, f"{name}: missing parameter `{field.name}`")
    return kind(**values)


@lru_cache(maxsize=256)
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def _identity(raw: msgspec.Raw) -> _Id:
    try:
        found: _Identity = _decoder(_Identity).decode(raw)
    except msgspec.ValidationError:
        return None
    return found.id


def _plain(error: Exception) -> str:
    """msgspec's message in our words."""
    text = str(error).replace("Object missing required field", "missing").replace(" - at `$.", " at `")
    return (text[:1].lower() + text[1:]).replace(" - at `$", " at `")


def _error(identity: object, code: int, message: str, data: object = None) -> dict[str, object]:
    error: dict[str, object] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return {"jsonrpc": "2.0", "id": identity, "error": error}
