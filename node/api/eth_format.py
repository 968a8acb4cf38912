"""Chain values -> the JSON shapes of Ethereum's JSON-RPC, as in the execution API specification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from eth_hash.auto import keccak

from chain.evm import TransactionFields
from chain.reads import BlockView, Place, ReceiptView
from chain.types import Log

VANITY_BYTES: Final = 32  # extraData as Ethereum's clients accept it; the rest is the proposer's signature
_ZERO_HASH: Final = "0x" + "00" * 32
_BLOOM_BITS: Final = 2048

Json = dict[str, Any]


def quantity(number: int) -> str:
    return hex(number)


def data(content: bytes) -> str:
    return "0x" + content.hex()


def word(number: int) -> str:
    """32 bytes, big-endian."""
    return "0x" + number.to_bytes(32, "big").hex()


def block_json(block: BlockView, full: bool, chain_id: int) -> Json:
    """A block; `full` gives whole transactions, otherwise their hashes."""
    head = block.head
    place = [Place(head.number, head.digest, index) for index in range(len(block.transactions))]
    transactions: list[Any] = (
        [transaction_json(fields, place[i], chain_id) for i, fields in enumerate(block.transactions)]
        if full
        else [data(fields.hash) for fields in block.transactions]
    )
    return {
        "number": quantity(head.number),
        "hash": data(head.digest),
        "parentHash": data(head.parent),
        "nonce": "0x" + "00" * 8,
        "sha3Uncles": data(block.uncles_hash),
        "logsBloom": data(block.bloom),
        "transactionsRoot": data(block.transactions_root),
        "stateRoot": data(head.state_root),
        "receiptsRoot": data(block.receipts_root),
        "miner": data(block.proposer),
        "difficulty": "0x0",
        "totalDifficulty": "0x0",
        "extraData": data(block.extra_data[:VANITY_BYTES]),
        "proofOfAuthorityData": data(block.extra_data),
        "size": quantity(block.size),
        "gasLimit": quantity(block.gas_limit),
        "gasUsed": quantity(block.gas_used),
        "timestamp": quantity(head.timestamp),
        "mixHash": _ZERO_HASH,
        "baseFeePerGas": quantity(block.base_fee_wei),
        "withdrawalsRoot": data(block.withdrawals_root),
        "withdrawals": [],
        "blobGasUsed": "0x0",
        "excessBlobGas": "0x0",
        "parentBeaconBlockRoot": data(block.beacon_root),
        "uncles": [],
        "transactions": transactions,
    }


def transaction_json(fields: TransactionFields, place: Place, chain_id: int) -> Json:
    result: Json = {
        "hash": data(fields.hash),
        "type": quantity(fields.type),
        "chainId": quantity(chain_id),
        "nonce": quantity(fields.nonce),
        "from": data(fields.sender),
        "to": None if fields.to is None else data(fields.to),
        "value": quantity(fields.value),
        "gas": quantity(fields.gas),
        "gasPrice": quantity(fields.gas_price),
        "input": data(fields.data),
        "v": quantity(fields.v),
        "r": quantity(fields.r),
        "s": quantity(fields.s),
        "blockHash": data(place.digest),
        "blockNumber": quantity(place.number),
        "transactionIndex": quantity(place.index),
    }
    if fields.type:
        result["yParity"] = quantity(fields.y_parity)
        result["accessList"] = [
            {"address": data(account), "storageKeys": [word(slot) for slot in slots]}
            for account, slots in fields.access_list
        ]
    if fields.type == 2:
        result["maxFeePerGas"] = quantity(fields.fee)
        result["maxPriorityFeePerGas"] = quantity(fields.tip)
    return result


def receipt_json(receipt: ReceiptView) -> Json:
    fields, place = receipt.fields, receipt.place
    return {
        "transactionHash": data(fields.hash),
        "transactionIndex": quantity(place.index),
        "blockHash": data(place.digest),
        "blockNumber": quantity(place.number),
        "from": data(fields.sender),
        "to": None if fields.to is None else data(fields.to),
        "contractAddress": None if fields.contract is None else data(fields.contract),
        "cumulativeGasUsed": quantity(receipt.gas_used_cumulative),
        "gasUsed": quantity(receipt.gas_used),
        "effectiveGasPrice": quantity(fields.gas_price),
        "logs": [log_json(log, place.index) for log in receipt.logs],
        "logsBloom": data(logs_bloom(receipt.logs)),
        "type": quantity(fields.type),
        "status": quantity(receipt.succeeded),
    }


def log_json(log: Log, transaction_index: int) -> Json:
    return {
        "address": data(log.address),
        "topics": [data(topic) for topic in log.topics],
        "data": data(log.data),
        "blockNumber": quantity(log.block_number),
        "blockHash": data(log.block_digest),
        "transactionHash": data(log.transaction),
        "transactionIndex": quantity(transaction_index),
        "logIndex": quantity(log.index),
        "removed": False,
    }


def logs_bloom(logs: Sequence[Log]) -> bytes:
    """The 2048-bit bloom of addresses and topics (yellow paper, section 4.3.1)."""
    bits = 0
    for item in {item for log in logs for item in (log.address, *log.topics)}:
        digest = keccak(item)
        for at in (0, 2, 4):
            bits |= 1 << (int.from_bytes(digest[at : at + 2], "big") % _BLOOM_BITS)
    return bits.to_bytes(_BLOOM_BITS // 8, "big")
