"""Ethereum's JSON-RPC as existing clients speak it, over a real chain: raw shapes first, then web3.py itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import vyper
from api_kit import BALANCE, CHAIN_ID, NOW, RICH, RICH_KEY, VALIDATORS, TinyNode, config_in, serving
from api_kit import call as raw_call
from vyper.compiler.settings import Settings
from web3 import HTTPProvider, Web3
from web3.exceptions import ContractLogicError, Web3RPCError
from web3.middleware import SignAndSendRawMiddlewareBuilder

from chain.transaction import sign_transaction
from node.api import jsonrpc
from node.api.eth import CALL_GAS_MAX

HTTP = '[api]\nhttp_listen = "127.0.0.1:0"\nlogs_max = 3\n'
OTHER = b"\x99" * 20
CONTRACT = """
event Paid:
    to: indexed(address)
    amount: uint256

balances: public(HashMap[address, uint256])

@external
def mint(amount: uint256):
    self.balances[msg.sender] += amount

@external
def pay(to: address, amount: uint256):
    assert self.balances[msg.sender] >= amount, "token: too little"
    self.balances[msg.sender] -= amount
    self.balances[to] += amount
    log Paid(to=to, amount=amount)

@external
@view
def now() -> uint256:
    return block.timestamp
"""


@cache
def compiled() -> dict[str, Any]:
    result: dict[str, Any] = vyper.compile_code(
        CONTRACT, output_formats=["bytecode", "abi"], settings=Settings(evm_version="cancun")
    )
    return result


@pytest.fixture
async def client(tmp_path: Path, node: TinyNode) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        serving(config_in(tmp_path / "n", HTTP), node) as addresses,
        httpx.AsyncClient(base_url=str(addresses.http), trust_env=False) as client,
    ):
        yield client


async def ask(client: httpx.AsyncClient, method: str, *params: object) -> Any:
    answer = await raw_call(client, method, *params)
    assert "error" not in answer, answer
    return answer["result"]


async def refused(client: httpx.AsyncClient, method: str, *params: object) -> Any:
    return (await raw_call(client, method, *params))["error"]


def transfer(nonce: int, to: bytes = OTHER, data: bytes = b"", value: int = 5) -> str:
    raw = sign_transaction(RICH_KEY, CHAIN_ID, nonce, to, value, data, 2_000_000, 100, 1)
    return "0x" + raw.hex()


async def deploy(client: httpx.AsyncClient) -> str:
    """Deploys the contract as the account's first transaction; its address."""
    code = bytes.fromhex(compiled()["bytecode"][2:])
    sent = await ask(client, "eth_sendRawTransaction", transfer(0, to=b"", data=code, value=0))
    receipt = await ask(client, "eth_getTransactionReceipt", sent)
    assert receipt["status"] == "0x1"
    address: str = receipt["contractAddress"]
    return address


def calldata(name: str, *arguments: Any) -> str:
    contract = Web3().eth.contract(abi=compiled()["abi"])
    return str(contract.encode_abi(name, list(arguments)))


async def test_every_head_tag_means_the_finalised_head(client: httpx.AsyncClient) -> None:
    await ask(client, "eth_sendRawTransaction", transfer(0))
    blocks = [
        await ask(client, "eth_getBlockByNumber", tag, False)
        for tag in ("latest", "safe", "finalized", "pending", "0x1")
    ]
    assert [block["number"] for block in blocks] == ["0x1"] * 5
    assert len({block["hash"] for block in blocks}) == 1
    assert (await ask(client, "eth_getBlockByNumber", "earliest", False))["number"] == "0x0"
    assert await ask(client, "eth_blockNumber") == "0x1"


async def test_a_block_has_every_field_and_its_seal_beside_the_extra_data(client: httpx.AsyncClient) -> None:
    sent = await ask(client, "eth_sendRawTransaction", transfer(0))
    block = await ask(client, "eth_getBlockByNumber", "latest", True)
    assert len(block["extraData"]) == 2 + 2 * 32
    assert block["proofOfAuthorityData"].startswith(block["extraData"])
    assert len(block["proofOfAuthorityData"]) == 2 + 2 * 97
    assert block["miner"] == "0x" + VALIDATORS[1].hex()
    assert block["timestamp"] == hex(NOW)
    (transaction,) = block["transactions"]
    assert transaction["hash"] == sent
    assert (transaction["from"], transaction["to"]) == ("0x" + RICH.hex(), "0x" + OTHER.hex())
    assert (transaction["type"], transaction["value"], transaction["chainId"]) == ("0x2", "0x5", hex(CHAIN_ID))
    assert await ask(client, "eth_getTransactionByHash", sent) == transaction
    assert (await ask(client, "eth_getBlockByHash", block["hash"], False))["transactions"] == [sent]


async def test_what_is_not_known_is_null(client: httpx.AsyncClient) -> None:
    nothing = "0x" + "ab" * 32
    assert await ask(client, "eth_getBlockByNumber", "0x99", False) is None
    assert await ask(client, "eth_getBlockByHash", nothing, False) is None
    assert await ask(client, "eth_getTransactionByHash", nothing) is None
    assert await ask(client, "eth_getTransactionReceipt", nothing) is None


async def test_accounts_can_be_asked_as_they_were(client: httpx.AsyncClient) -> None:
    await ask(client, "eth_sendRawTransaction", transfer(0))
    await ask(client, "eth_sendRawTransaction", transfer(1))
    other = "0x" + OTHER.hex()
    block = await ask(client, "eth_getBlockByNumber", "0x1", False)
    assert await ask(client, "eth_getBalance", other) == "0xa"
    assert await ask(client, "eth_getBalance", other, "0x1") == "0x5"
    assert await ask(client, "eth_getBalance", other, {"blockNumber": "0x0"}) == "0x0"
    assert await ask(client, "eth_getBalance", other, {"blockHash": block["hash"]}) == "0x5"
    assert (await refused(client, "eth_getBalance", other, "0x9"))["code"] == jsonrpc.NOT_FOUND
    assert await ask(client, "eth_getTransactionCount", "0x" + RICH.hex(), "latest") == "0x2"


async def test_only_a_pending_nonce_counts_what_waits(client: httpx.AsyncClient, node: TinyNode) -> None:
    node.waiting[RICH] = 2
    assert await ask(client, "eth_getTransactionCount", "0x" + RICH.hex(), "pending") == "0x2"
    assert await ask(client, "eth_getTransactionCount", "0x" + RICH.hex()) == "0x0"


async def test_a_revert_has_code_three_its_reason_and_its_data(client: httpx.AsyncClient) -> None:
    call = {
        "from": "0x" + RICH.hex(),
        "to": await deploy(client),
        "data": calldata("pay", Web3().to_checksum_address(OTHER), 1),
    }
    for method in ("eth_call", "eth_estimateGas"):
        error = await refused(client, method, call)
        assert error["code"] == jsonrpc.EXECUTION_REVERTED
        assert error["message"] == "execution reverted: token: too little"
        assert error["data"].startswith("0x08c379a0")


async def test_a_call_on_the_head_sees_the_present_time_and_an_old_block_its_own(client: httpx.AsyncClient) -> None:
    call = {"to": await deploy(client), "input": calldata("now")}
    first = int(await ask(client, "eth_call", call, "0x1"), 16)
    assert first == NOW  # the head's time lies in the future of this machine, so both give the block's


async def test_a_call_gets_no_more_gas_than_the_node_allows(client: httpx.AsyncClient) -> None:
    gas_left = "0x5a5f5260205ff3"  # GAS PUSH0 MSTORE, return that word
    for asked in ({}, {"gas": "0xffffffff"}):
        left = int(await ask(client, "eth_call", {"data": gas_left, **asked}), 16)
        assert CALL_GAS_MAX - 100_000 < left < CALL_GAS_MAX
    assert (await refused(client, "eth_call", {"data": "0x5b5f56", "gas": "0x30d40"}))["message"] == "out of gas"


async def test_logs_are_found_by_range_address_topic_and_block(client: httpx.AsyncClient) -> None:
    address = await deploy(client)
    checksum = Web3().to_checksum_address
    receivers = [checksum(bytes([n]) * 20) for n in (1, 2)]
    calls = [calldata("mint", 10), calldata("pay", receivers[0], 1), calldata("pay", receivers[1], 2)]
    for nonce, data in enumerate(calls, 1):
        raw = transfer(nonce, bytes.fromhex(address[2:]), bytes.fromhex(data[2:]), 0)
        await ask(client, "eth_sendRawTransaction", raw)
    everything = {"fromBlock": "earliest", "toBlock": "latest"}
    found = await ask(client, "eth_getLogs", everything)
    assert [(log["blockNumber"], log["transactionIndex"], log["logIndex"]) for log in found] == [
        ("0x3", "0x0", "0x0"),
        ("0x4", "0x0", "0x0"),
    ]
    topic = found[0]["topics"][0]
    to_second = "0x" + "00" * 12 + "02" * 20
    assert await ask(client, "eth_getLogs", {**everything, "topics": [topic, to_second]}) == found[1:]
    assert await ask(client, "eth_getLogs", {**everything, "topics": [[to_second, topic], None]}) == found
    assert await ask(client, "eth_getLogs", {**everything, "address": [address]}) == found
    assert await ask(client, "eth_getLogs", {**everything, "address": "0x" + OTHER.hex()}) == []
    assert await ask(client, "eth_getLogs", {"blockHash": found[0]["blockHash"]}) == found[:1]
    assert await ask(client, "eth_getLogs", {"fromBlock": "0x4"}) == found[1:]
    receipt = await ask(client, "eth_getTransactionReceipt", found[0]["transactionHash"])
    assert receipt["logs"] == found[:1]
    assert int(receipt["logsBloom"], 16) != 0


async def test_too_many_logs_and_too_many_blocks_are_refused(client: httpx.AsyncClient) -> None:
    address = bytes.fromhex((await deploy(client))[2:])
    receiver = Web3().to_checksum_address(OTHER)
    calls = [calldata("mint", 10), *(calldata("pay", receiver, 1) for _ in range(4))]
    for nonce, data in enumerate(calls, 1):
        await ask(client, "eth_sendRawTransaction", transfer(nonce, address, bytes.fromhex(data[2:]), 0))
    error = await refused(client, "eth_getLogs", {"fromBlock": "0x0"})
    assert error == {"code": jsonrpc.LIMIT_EXCEEDED, "message": "more than 3 logs match; ask for fewer blocks"}


async def test_a_transaction_that_cannot_stand_is_refused_with_its_reason(client: httpx.AsyncClient) -> None:
    wrong_chain = "0x" + sign_transaction(RICH_KEY, 1, 0, OTHER, 1, b"", 21_000, 100, 1).hex()
    for raw in (wrong_chain, "0x02", "0x", "0xc0"):
        error = await refused(client, "eth_sendRawTransaction", raw)
        assert error["code"] == jsonrpc.TRANSACTION_REJECTED, error
        assert error["message"]


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("eth_getBalance", ["0x12"]),
        ("eth_getBalance", ["zz" * 20]),
        ("eth_getBalance", ["0x" + "00" * 20, "newest"]),
        ("eth_getBalance", ["0x" + "00" * 20, {"blockNumber": "0x1", "blockHash": "0x" + "00" * 32}]),
        ("eth_getBlockByNumber", ["0x-1", False]),
        ("eth_getBlockByNumber", ["0x" + "f" * 65, False]),
        ("eth_call", [{"data": "0x1", "input": "0x2"}]),
        ("eth_call", [{"to": "0x00"}]),
        ("eth_call", [{"accessList": [{"address": "0x", "storageKeys": []}]}]),
        ("eth_getLogs", [{"blockHash": "0x" + "00" * 32, "fromBlock": "0x0"}]),
        ("eth_getLogs", [{"adress": "0x"}]),
        ("eth_sendRawTransaction", ["0x0"]),
    ],
)
async def test_a_malformed_parameter_is_named(client: httpx.AsyncClient, method: str, params: list[object]) -> None:
    error = await refused(client, method, *params)
    assert error["code"] == jsonrpc.INVALID_PARAMS
    assert "\n" not in error["message"]


async def test_the_fee_history_has_one_base_fee_more_than_blocks(client: httpx.AsyncClient) -> None:
    await ask(client, "eth_sendRawTransaction", transfer(0))
    history = await ask(client, "eth_feeHistory", "0x10", "latest", [10, 90])
    assert history["oldestBlock"] == "0x0"
    assert len(history["baseFeePerGas"]) == 3
    assert len(history["gasUsedRatio"]) == len(history["reward"]) == 2


def use_web3(url: str) -> None:
    """What a user of web3.py does: deploy, send, call, read events; run in a thread of its own."""
    web3 = Web3(HTTPProvider(url))
    account = web3.eth.account.from_key(RICH_KEY)
    web3.middleware_onion.inject(SignAndSendRawMiddlewareBuilder.build(account), layer=0)  # type: ignore[arg-type]
    web3.eth.default_account = account.address
    assert web3.is_connected()
    assert web3.client_version.startswith("flnode/")
    assert (web3.eth.chain_id, web3.eth.get_balance(account.address)) == (CHAIN_ID, BALANCE)
    factory = web3.eth.contract(abi=compiled()["abi"], bytecode=compiled()["bytecode"])
    receipt = web3.eth.wait_for_transaction_receipt(factory.constructor().transact())
    token = web3.eth.contract(address=receipt["contractAddress"], abi=compiled()["abi"])
    other = web3.to_checksum_address(OTHER)
    web3.eth.wait_for_transaction_receipt(token.functions.mint(100).transact())
    paid = web3.eth.wait_for_transaction_receipt(token.functions.pay(other, 7).transact())
    assert paid["status"] == 1
    assert token.functions.balances(other).call() == 7
    (event,) = token.events.Paid().get_logs(from_block=0)
    assert (event.args.to, event.args.amount) == (other, 7)
    with pytest.raises(ContractLogicError, match="too little"):
        token.functions.pay(other, 1000).call()
    with pytest.raises(Web3RPCError):
        web3.eth.send_raw_transaction(b"\x02\xc0")
    assert web3.eth.get_block("finalized")["number"] == 3
    with web3.batch_requests() as batch:
        batch.add(web3.eth.get_balance(other))
        batch.add(web3.eth.get_block("latest"))
        assert [type(each).__name__ for each in batch.execute()] == ["int", "AttributeDict"]


async def test_web3_works_against_a_node(client: httpx.AsyncClient) -> None:
    await trio.to_thread.run_sync(use_web3, str(client.base_url))
