"""The `fl_*` methods: what Ethereum's JSON-RPC has no word for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec
from eth_utils.address import is_checksum_address
from msgspec import Meta

from learner.card import Card
from node.api import schema
from node.api.backend import Backend, BackendError, NotFound
from node.api.jsonrpc import INVALID_PARAMS, NOT_FOUND, SERVER_ERROR, Method, NoParams, RpcError

JobId = Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
ProposalId = Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
Round = Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
WaitS = Annotated[float, Meta(ge=0, le=schema.WAIT_S_MAX)]
Wei = Annotated[str, Meta(pattern=r"^[0-9]{1,78}$")]


class _Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the parameters: an unknown name is refused."""


class _Job(_Params, frozen=True):
    id: JobId


class _JobEvents(_Params, frozen=True):
    id: JobId
    after: Annotated[int, Meta(ge=0)] = 0
    wait_s: WaitS = 0.0


class _SubmitJob(_Params, frozen=True):
    spec: schema.JobSpec
    wait_s: WaitS = 0.0


class _ChangeJob(_Params, frozen=True):
    id: JobId
    wait_s: WaitS = 0.0


class _TopUpJob(_Params, frozen=True):
    id: JobId
    rounds: Annotated[int, Meta(ge=1)]
    wait_s: WaitS = 0.0


class _Wait(_Params, frozen=True):
    wait_s: WaitS = 0.0


class _Send(_Params, frozen=True):
    to: str
    value_wei: Wei
    wait_s: WaitS = 0.0


class _ProposeValidator(_Params, frozen=True):
    subject: str
    admit: bool = True
    wait_s: WaitS = 0.0


class _ApproveValidator(_Params, frozen=True):
    id: ProposalId
    wait_s: WaitS = 0.0


class _Dataset(_Params, frozen=True):
    dataset: str


class _AddDataset(_Params, frozen=True):
    path: str
    name: str
    card: Card
    replace: bool = False


class _BlobPart(_Params, frozen=True):
    digest: str
    index: Annotated[int, Meta(ge=0)] = 0


class _Model(_Params, frozen=True):
    id: JobId
    round: Round | None = None
    wait_s: WaitS = 0.0


class _Predict(_Params, frozen=True):
    id: JobId
    path: str
    round: Round | None = None
    wait_s: WaitS = 0.0


def fl_methods(backend: Backend) -> dict[str, Method]:
    """The table of fl_* methods over `backend`."""

    def method(params: type[msgspec.Struct], call: Callable[[Any], Awaitable[object]], admin: bool = False) -> Method:
        async def handler(given: Any) -> object:
            try:
                return await call(given)
            except NotFound as error:
                raise RpcError(NOT_FOUND, str(error)) from None
            except BackendError as error:
                raise RpcError(SERVER_ERROR, str(error)) from None

        return Method(params, handler, admin)

    return {
        "fl_status": method(NoParams, lambda p: backend.status()),
        "fl_peers": method(NoParams, lambda p: backend.peers()),
        "fl_knownPeers": method(NoParams, lambda p: backend.known_peers()),
        "fl_jobs": method(NoParams, lambda p: backend.jobs()),
        "fl_job": method(_Job, lambda p: backend.job(p.id)),
        "fl_jobEvents": method(_JobEvents, lambda p: backend.job_events(p.id, p.after, p.wait_s)),
        "fl_account": method(NoParams, lambda p: backend.account()),
        "fl_datasets": method(NoParams, lambda p: backend.datasets()),
        "fl_dataset": method(_Dataset, lambda p: backend.dataset(p.dataset)),
        "fl_blobPart": method(_BlobPart, lambda p: backend.blob_part(_digest(p.digest), p.index)),
        "fl_addDataset": method(
            _AddDataset, lambda p: backend.add_dataset(p.path, p.name, p.card, p.replace), admin=True
        ),
        "fl_model": method(_Model, lambda p: backend.model(p.id, p.round, p.wait_s), admin=True),
        "fl_predict": method(_Predict, lambda p: backend.predict(p.id, p.round, p.path, p.wait_s), admin=True),
        "fl_submitJob": method(_SubmitJob, lambda p: backend.submit_job(p.spec, p.wait_s), admin=True),
        "fl_cancelJob": method(_ChangeJob, lambda p: backend.cancel_job(p.id, p.wait_s), admin=True),
        "fl_appealJob": method(_ChangeJob, lambda p: backend.appeal_job(p.id, p.wait_s), admin=True),
        "fl_topUpJob": method(_TopUpJob, lambda p: backend.top_up_job(p.id, p.rounds, p.wait_s), admin=True),
        "fl_withdraw": method(_Wait, lambda p: backend.withdraw(p.wait_s), admin=True),
        "fl_send": method(_Send, lambda p: backend.send(_address(p.to), int(p.value_wei), p.wait_s), admin=True),
        "fl_validators": method(NoParams, lambda p: backend.validators()),
        "fl_proposeValidator": method(
            _ProposeValidator, lambda p: backend.propose_validator(_address(p.subject), p.admit, p.wait_s), admin=True
        ),
        "fl_approveValidator": method(
            _ApproveValidator, lambda p: backend.approve_validator(p.id, p.wait_s), admin=True
        ),
        "fl_stop": method(NoParams, lambda p: backend.stop(), admin=True),
    }


def _digest(text: str) -> bytes:
    try:
        digest = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise RpcError(INVALID_PARAMS, f"{text!r} is not a digest: expected 0x and 64 hex digits")
    return digest


def _address(text: str) -> bytes:
    try:
        address = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        address = b""
    if len(address) != 20:
        raise RpcError(INVALID_PARAMS, f"{text!r} is not an address: expected 0x and 40 hex digits")
    digits = text.removeprefix("0x")
    if digits not in (digits.lower(), digits.upper()) and not is_checksum_address(f"0x{digits}"):
        raise RpcError(INVALID_PARAMS, f"{text} is mistyped: its checksum (EIP-55) is wrong")
    return address
