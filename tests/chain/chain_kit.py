"""A small network for tests: keys, a network file, tiny contracts in bytecode, and shorthand to drive a Chain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from chain.chain import Chain, FinalisedBlock
from chain.evm import Account
from chain.genesis import Network, ValidatorEntry
from chain.header import address_of_secret
from chain.store import Store
from chain.system import System
from chain.transaction import sign_transaction
from chain.types import FINALISE, Block, Certificate, Claim, Log, RevealClaim, Transaction

CHAIN_ID = 7
GENESIS_TIME = 1_000
NOW = 2_000
RICH = 10**24
VALIDATORS = [bytes([index + 1]) * 32 for index in range(8)]  # the first four are in the network file
USERS = [(10**9 + index).to_bytes(32, "big") for index in range(8)]
ADDRESSES = [address_of_secret(user) for user in USERS]

# counter[caller] += 1, then an empty log
COUNTER = b"\xc1" * 20
_COUNTER_CODE = bytes.fromhex("335460010133555f5fa000")
# log of the calldata with its first word as topic: states a claim (claim_of below)
LOGGER = b"\xc2" * 20
_LOGGER_CODE = bytes.fromhex("365f5f375f35365fa100")
# reverts with its calldata
REVERTER = b"\xc3" * 20
_REVERTER_CODE = bytes.fromhex("365f5f37365ffd")
# slot 0 = blockhash(number - 1)
HASHER = b"\xc4" * 20
_HASHER_CODE = bytes.fromhex("60014303405f5500")
# slot 1 = blockhash(calldata)
ARCHIVIST = b"\xca" * 20
_ARCHIVIST_CODE = bytes.fromhex("5f354060015500")
# returns the block's time
CLOCK = b"\xc5" * 20
_CLOCK_CODE = bytes.fromhex("425f5260205ff3")
# calls itself with all the gas that it may, to the end
SPIRAL = b"\xc6" * 20
_SPIRAL_CODE = bytes.fromhex("5f5f5f5f5f305af100")
# burns all its gas: JUMPDEST PUSH0 JUMP
FURNACE = b"\xc7" * 20
_FURNACE_CODE = bytes.fromhex("5b5f56")
# gives itself up to the caller
MAYFLY = b"\xc8" * 20
_MAYFLY_CODE = bytes.fromhex("33ff")

# as LOGGER: its logs end an epoch (validators_of below)
CHANGER = b"\xc9" * 20

CONTRACTS = {
    address: Account(nonce=1, code=code)
    for address, code in (
        (COUNTER, _COUNTER_CODE),
        (LOGGER, _LOGGER_CODE),
        (REVERTER, _REVERTER_CODE),
        (HASHER, _HASHER_CODE),
        (ARCHIVIST, _ARCHIVIST_CODE),
        (CLOCK, _CLOCK_CODE),
        (SPIRAL, _SPIRAL_CODE),
        (FURNACE, _FURNACE_CODE),
        (MAYFLY, _MAYFLY_CODE),
        (CHANGER, _LOGGER_CODE),
    )
}


def make_network(validators: int = 4, **changes: object) -> Network:
    entries = tuple(ValidatorEntry(address_of_secret(key)) for key in VALIDATORS[:validators])
    values: dict[str, object] = {
        "name": "test",
        "chain_id": CHAIN_ID,
        "timestamp": GENESIS_TIME,
        "validators": entries,
        "balances": dict.fromkeys(ADDRESSES, RICH),
    }
    return Network(**(values | changes))  # type: ignore[arg-type]


def claim_of(log: Log) -> Claim | None:
    """Every log of LOGGER states a claim, named by its topic."""
    if log.address != LOGGER:
        return None
    return RevealClaim(LOGGER, 1, 1, 1, bytes(20), bytes(32), bytes(32), 1, bytes(65), log.topics[0])


def claim_digest(claim: Claim, chain_id: int, genesis: bytes) -> bytes:
    return claim.update


def validators_of(log: Log) -> tuple[int, tuple[bytes, ...]] | None:
    """A log of CHANGER: its topic is the number of the next epoch, the rest its validators' addresses."""
    if log.address != CHANGER:
        return None
    addresses = log.data[32:]
    return int.from_bytes(log.topics[0], "big"), tuple(addresses[at : at + 20] for at in range(0, len(addresses), 20))


def change(epoch: int, validators: Iterable[bytes]) -> bytes:
    """The calldata that has CHANGER begin an epoch with the validators of these keys."""
    return epoch.to_bytes(32, "big") + b"".join(map(address_of_secret, validators))


SYSTEM = System(lambda _network: CONTRACTS, claim_of, claim_digest, validators_of)


def open_chain(path: Path, network: Network | None = None) -> Chain:
    return Chain(Store(path, map_size=1 << 28), network or make_network(), SYSTEM)


def close(chain: Chain) -> None:
    chain._store.close()


def sign(
    user: int, nonce: int, to: bytes = bytes(20), data: bytes = b"", value: int = 0, gas: int = 100_000, tip: int = 1
) -> bytes:
    return sign_transaction(USERS[user], CHAIN_ID, nonce, to, value, data, gas, fee=20, tip=tip)


def tx(chain: Chain, user: int, nonce: int, to: bytes = bytes(20), data: bytes = b"", **more: int) -> Transaction:
    return chain.decode_transaction(sign(user, nonce, to, data, **more))


def build(chain: Chain, parent: bytes, view: int, transactions: Iterable[Transaction] = (), now: int = NOW) -> Block:
    key = VALIDATORS[view % len(chain.network.validators)]
    return chain.build(parent, view, chain.epochs.present.number, transactions, now, key)


def certificate(block: Block) -> Certificate:
    """Of the right shape; nothing in this room verifies its signatures."""
    return Certificate(block.epoch, block.view, FINALISE, block.digest, ())


def finalise(chain: Chain, *blocks: Block) -> list[FinalisedBlock]:
    return chain.finalise(blocks, certificate(blocks[-1]))


def extend(chain: Chain, transactions: Sequence[Transaction] = (), now: int = NOW) -> Block:
    """Build one block on the finalised head, in the next view, and make it final."""
    head = chain.finalised
    block = build(chain, head.digest, head.view + 1, transactions, now)
    finalise(chain, block)
    return block
