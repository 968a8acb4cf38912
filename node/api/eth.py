"""Ethereum's JSON-RPC, as far as web3.py and cast need it, over the finalised chain.

The tags latest, safe, finalized and pending all mean the finalised head: nothing newer can be relied upon. Only a
nonce asked for "pending" counts the transactions that wait here, so that a wallet may send several in a row.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec
import trio
from eth_hash.auto import keccak

from chain.evm import ExecutionFailed, Reverted
from chain.reads import At, BlockView, ChainReads, TooManyLogs, UnknownBlock
from chain.types import InvalidTransaction
from node.api import jsonrpc
from node.api.backend import Backend, BackendError
from node.api.eth_format import Json, block_json, data, log_json, quantity, receipt_json, transaction_json, word
from node.api.jsonrpc import INVALID_PARAMS, Method, NoParams, RpcError
from node.version import VERSION

T = TypeVar("T")

CALL_GAS_MAX: Final = 4_000_000  # calls run in a thread, but slow down everything else: about a second for these
ESTIMATE_GAS_MAX: Final = 8_000_000  # room to deploy the largest contract
LOG_BLOCKS_MAX: Final = 100_000  # blocks that one eth_getLogs may span
FEE_HISTORY_MAX: Final = 64
PRIORITY_FEE_WEI: Final = 1
_HEAD_TAGS: Final = ("latest", "safe", "finalized", "pending")
_UINT256_MAX: Final = (1 << 256) - 1


class _Params(msgspec.Struct, frozen=True):
    """Base of the parameters, in their order."""


class _BlockObject(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A block by number or by hash (EIP-1898)."""

    block_number: str | None = None
    block_hash: str | None = None
    require_canonical: bool = True  # only canonical blocks are known here


_BlockParameter = str | int | _BlockObject


class _Access(msgspec.Struct, frozen=True, rename="camel"):
    address: str
    storage_keys: list[str]


class _Address(_Params, frozen=True):
    address: str
    block: _BlockParameter = "latest"


class _Storage(_Params, frozen=True):
    address: str
    slot: str
    block: _BlockParameter = "latest"


class _Block(_Params, frozen=True):
    block: str | int
    full: bool = False


class _Hash(_Params, frozen=True):
    hash: str


class _Raw(_Params, frozen=True):
    raw: str


class _FeeHistory(_Params, frozen=True):
    count: str | int
    newest: str | int
    percentiles: list[float] = msgspec.field(default_factory=list)


class _CallObject(msgspec.Struct, frozen=True, rename="camel"):
    """A call; prices, nonce and the like are ignored, because a simulated call pays no fee."""

    from_: str | None = msgspec.field(default=None, name="from")
    to: str | None = None
    gas: str | None = None
    value: str | None = None
    data: str | None = None
    input: str | None = None
    access_list: list[_Access] | None = None


class _Call(_Params, frozen=True):
    transaction: _CallObject
    block: _BlockParameter = "latest"


class _Filter(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    from_block: str | None = None
    to_block: str | None = None
    address: str | list[str] | None = None
    topics: list[str | list[str] | None] | None = None
    block_hash: str | None = None


class _Logs(_Params, frozen=True):
    filter: _Filter


def eth_methods(backend: Backend, logs_max: int, clock: Callable[[], float] = time.time) -> dict[str, Method]:
    """The table of eth_*, net_* and web3_* methods over `backend`."""
    eth = _Eth(backend, logs_max, clock)

    def method(params: type[msgspec.Struct], call: Callable[[Any], Any]) -> Method:
        async def handler(given: Any) -> object:
            try:
                result = call(given)
                return await result if isinstance(result, Awaitable) else result
            except UnknownBlock as error:
                raise RpcError(jsonrpc.NOT_FOUND, str(error)) from None
            except Reverted as error:
                raise RpcError(jsonrpc.EXECUTION_REVERTED, str(error), data(error.data)) from None
            except (ExecutionFailed, BackendError) as error:
                raise RpcError(jsonrpc.SERVER_ERROR, str(error)) from None
            except TooManyLogs as error:
                raise RpcError(jsonrpc.LIMIT_EXCEEDED, str(error)) from None
            except InvalidTransaction as error:
                raise RpcError(jsonrpc.TRANSACTION_REJECTED, str(error)) from None

        return Method(params, handler)

    chain = backend.chain
    return {
        "web3_clientVersion": method(NoParams, lambda p: f"flnode/{VERSION}"),
        "web3_sha3": method(_Raw, lambda p: data(keccak(_bytes(p.raw, "data")))),
        "net_version": method(NoParams, lambda p: str(chain.network.chain_id)),
        "net_listening": method(NoParams, lambda p: True),
        "net_peerCount": method(NoParams, lambda p: eth.peer_count()),
        "eth_chainId": method(NoParams, lambda p: quantity(chain.network.chain_id)),
        "eth_accounts": method(NoParams, lambda p: []),
        "eth_blockNumber": method(NoParams, lambda p: quantity(chain.finalised.number)),
        "eth_gasPrice": method(NoParams, lambda p: quantity(chain.network.base_fee_wei + PRIORITY_FEE_WEI)),
        "eth_maxPriorityFeePerGas": method(NoParams, lambda p: quantity(PRIORITY_FEE_WEI)),
        "eth_feeHistory": method(_FeeHistory, eth.fee_history),
        "eth_getBalance": method(_Address, lambda p: quantity(chain.balance(_address(p.address), eth.at(p.block)))),
        "eth_getTransactionCount": method(_Address, eth.transaction_count),
        "eth_getCode": method(_Address, lambda p: data(chain.code(_address(p.address), eth.at(p.block)))),
        "eth_getStorageAt": method(_Storage, eth.storage),
        "eth_call": method(_Call, eth.call),
        "eth_estimateGas": method(_Call, eth.estimate_gas),
        "eth_getBlockByNumber": method(_Block, eth.block),
        "eth_getBlockByHash": method(_Block, eth.block_by_hash),
        "eth_getTransactionByHash": method(_Hash, eth.transaction),
        "eth_getTransactionReceipt": method(_Hash, eth.receipt),
        "eth_getLogs": method(_Logs, eth.logs),
        "eth_sendRawTransaction": method(_Raw, eth.send_raw_transaction),
    }


class _Eth:
    """The methods that are more than one expression."""

    def __init__(self, backend: Backend, logs_max: int, clock: Callable[[], float]) -> None:
        self._backend = backend
        self._logs_max = logs_max
        self._clock = clock
        self._limiter = trio.CapacityLimiter(1)

    @property
    def _chain(self) -> ChainReads:
        return self._backend.chain

    def at(self, block: _BlockParameter) -> At:
        """Which block a parameter means: None for the finalised head, else a number or the digest of a final block."""
        if isinstance(block, _BlockObject):
            if (block.block_number is None) == (block.block_hash is None):
                raise RpcError(INVALID_PARAMS, "block: give either blockNumber or blockHash")
            if block.block_hash is not None:
                return self._final_digest(_hash(block.block_hash))
            block = block.block_number or ""
        if block in _HEAD_TAGS:
            return None
        return 0 if block == "earliest" else _quantity(block, "block")

    def _final_digest(self, digest: bytes) -> bytes:
        """The digest of a finalised block, unchanged. Raises UnknownBlock for any other."""
        if not self._chain.has(digest):
            raise UnknownBlock(digest)
        head = self._chain.head(digest)
        if head.number > self._chain.finalised.number or self._chain.block(head.number).head.digest != digest:
            raise UnknownBlock(digest)
        return digest

    async def peer_count(self) -> str:
        return quantity(len(await self._backend.peers()))

    def fee_history(self, p: _FeeHistory) -> Json:
        at = self.at(p.newest)
        newest = self._chain.finalised.number if at is None else at
        assert isinstance(newest, int)
        if newest > self._chain.finalised.number:
            raise UnknownBlock(newest)
        count = min(_quantity(p.count, "blockCount"), FEE_HISTORY_MAX, newest + 1)
        blocks = [self._chain.block(number) for number in range(newest - count + 1, newest + 1)]
        result: Json = {
            "oldestBlock": quantity(newest - count + 1),
            "baseFeePerGas": [quantity(self._chain.network.base_fee_wei)] * (count + 1),
            "gasUsedRatio": [block.gas_used / block.gas_limit for block in blocks],
        }
        if p.percentiles:
            result["reward"] = [[quantity(PRIORITY_FEE_WEI)] * len(p.percentiles)] * count
        return result

    def transaction_count(self, p: _Address) -> str:
        address = _address(p.address)
        if p.block == "pending":
            return quantity(self._backend.pending_nonce(address))
        return quantity(self._chain.nonce(address, self.at(p.block)))

    def storage(self, p: _Storage) -> str:
        return word(self._chain.storage(_address(p.address), _quantity(p.slot, "slot"), self.at(p.block)))

    async def call(self, p: _Call) -> str:
        return data(await self._run(self._chain.calling(**self._call_arguments(p, CALL_GAS_MAX))))

    async def estimate_gas(self, p: _Call) -> str:
        return quantity(await self._run(self._chain.estimating(**self._call_arguments(p, ESTIMATE_GAS_MAX))))

    async def _run(self, job: Callable[[], T]) -> T:
        """In a thread, one at a time."""
        return await trio.to_thread.run_sync(job, limiter=self._limiter)

    def _call_arguments(self, p: _Call, gas_max: int) -> dict[str, Any]:
        call, at = p.transaction, self.at(p.block)
        if call.access_list:
            raise RpcError(INVALID_PARAMS, "calls with an accessList are not simulated here")
        if call.data is not None and call.input is not None and call.data != call.input:
            raise RpcError(INVALID_PARAMS, "`data` and `input` differ; give one of them")
        gas = gas_max if call.gas is None else min(_quantity(call.gas, "gas"), gas_max)
        arguments: dict[str, Any] = {
            "to": b"" if call.to is None else _address(call.to),
            "data": _bytes(call.input or call.data or "0x", "data"),
            "value": _quantity(call.value or "0x0", "value"),
            "at": at,
            "gas": gas,
        }
        if call.from_ is not None:
            arguments["sender"] = _address(call.from_)
        if at is None:  # an idle chain's head may be old; the call's own block would be of now
            arguments["now"] = int(self._clock())
        return arguments

    def block(self, p: _Block) -> Json | None:
        return self._block_json(self.at(p.block), p.full)

    def block_by_hash(self, p: _Block) -> Json | None:
        try:
            return self._block_json(self._final_digest(_hash(str(p.block))), p.full)
        except UnknownBlock:
            return None

    def _block_json(self, at: At, full: bool) -> Json | None:
        try:
            return block_json(self._chain.block(at), full, self._chain.network.chain_id)
        except UnknownBlock:
            return None

    def transaction(self, p: _Hash) -> Json | None:
        found = self._chain.transaction(_hash(p.hash))
        return None if found is None else transaction_json(*found, self._chain.network.chain_id)

    def receipt(self, p: _Hash) -> Json | None:
        found = self._chain.receipt(_hash(p.hash))
        return None if found is None else receipt_json(found)

    def logs(self, p: _Logs) -> list[Json]:
        first, last = self._log_range(p.filter)
        if last - first >= LOG_BLOCKS_MAX:
            raise RpcError(jsonrpc.LIMIT_EXCEEDED, f"more than {LOG_BLOCKS_MAX} blocks; ask for fewer")
        wanted = p.filter.address
        addresses = [] if wanted is None else [wanted] if isinstance(wanted, str) else wanted
        topics = [
            None if topic is None else [_hash(each) for each in ([topic] if isinstance(topic, str) else topic)]
            for topic in p.filter.topics or []
        ]
        found = self._chain.logs(first, last, [_address(each) for each in addresses], topics, self._logs_max)
        indices: dict[int, dict[bytes, int]] = {}
        for number in {log.block_number for log in found}:
            block: BlockView = self._chain.block(number)
            indices[number] = {fields.hash: index for index, fields in enumerate(block.transactions)}
        return [log_json(log, indices[log.block_number][log.transaction]) for log in found]

    def _log_range(self, given: _Filter) -> tuple[int, int]:
        """First and last block number of a log filter."""
        if given.block_hash is not None:
            if given.from_block is not None or given.to_block is not None:
                raise RpcError(INVALID_PARAMS, "`blockHash` goes with neither `fromBlock` nor `toBlock`")
            number = self._chain.head(self._final_digest(_hash(given.block_hash))).number
            return number, number
        head = self._chain.finalised.number
        first, last = (self.at(given.from_block or "latest"), self.at(given.to_block or "latest"))
        return (
            first if isinstance(first, int) else head,
            min(last, head) if isinstance(last, int) else head,
        )

    async def send_raw_transaction(self, p: _Raw) -> str:
        return data(await self._backend.submit_transaction(_bytes(p.raw, "transaction")))


def _quantity(text: object, where: str) -> int:
    """A hex quantity; plain JSON numbers are taken too, as other nodes do."""
    value = text if isinstance(text, int) and not isinstance(text, bool) else -1
    if isinstance(text, str) and text.startswith("0x"):
        try:
            value = int(text[2:], 16)
        except ValueError:
            value = -1
    if not 0 <= value <= _UINT256_MAX:
        raise RpcError(INVALID_PARAMS, f"{where}: {text!r} is not a hex quantity such as 0x1f")
    return value


def _bytes(text: str, where: str) -> bytes:
    try:
        if text.startswith("0x"):
            return bytes.fromhex(text[2:])
    except ValueError:
        pass
    raise RpcError(INVALID_PARAMS, f"{where}: expected 0x and an even number of hex digits")


def _address(text: str) -> bytes:
    address = _bytes(text, "address")
    if len(address) != 20:
        raise RpcError(INVALID_PARAMS, f"address: {text!r} is not 20 bytes")
    return address


def _hash(text: str) -> bytes:
    digest = _bytes(text, "hash")
    if len(digest) != 32:
        raise RpcError(INVALID_PARAMS, f"hash: {text!r} is not 32 bytes")
    return digest
