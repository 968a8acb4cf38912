"""The accounts that a block reads and writes, as py-evm's state machine asks for them.

Stock wraps seven databases around each other and encodes an account whenever its balance changes. Here the accounts,
slots and marks of a block stand in dictionaries; a journal holds, for each change, what stood there before, so that a
checkpoint is a length of the journal and nothing is done to commit. Tries are read where a value is not known yet, and
written once, when the block ends. Where stock's order of events shows in a result, it is kept:

- An account exists once it has been touched, even if it is empty; whoever touched it deletes it again (EIP-161).
- A slot's original value (EIP-2200) is the one at the beginning of the transaction, zero once the storage was wiped.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from eth.constants import UINT_64_MAX, UINT_256_MAX
from eth_hash.auto import keccak
from eth_utils.exceptions import ValidationError

from chain.evm_trie import EMPTY_ROOT, MissingNode, Trie, decode_node, encode
from chain.store import StoreDamaged

EMPTY_CODE: Final = keccak(b"")
_ABSENT: Final = object()


class AccountValue(NamedTuple):
    nonce: int
    balance: int
    storage_root: bytes  # as of the block's beginning, or of the last wipe
    code_hash: bytes


_EMPTY: Final = AccountValue(0, 0, EMPTY_ROOT, EMPTY_CODE)


class Storage:
    """The slots of one account, until they are wiped."""

    __slots__ = ("keys", "loaded", "originals", "trie", "values")

    def __init__(self, trie: Trie) -> None:
        self.trie = trie
        self.keys: dict[int, bytes] = {}  # keccak of a slot
        self.loaded: dict[int, int] = {}  # before the block
        self.values: dict[int, int] = {}  # now
        self.originals: dict[int, int] = {}  # before the transaction, of those that it wrote

    def load(self, slot: int) -> int:
        key = self.keys[slot] = keccak(slot.to_bytes(32, "big"))
        encoded = self.trie.get(key)
        value = int.from_bytes(encoded[1:] if len(encoded) > 1 or encoded > b"\x7f" else encoded, "big")
        self.loaded[slot] = self.values[slot] = value
        return value

    def written(self) -> bytes:
        """The new root."""
        loaded = self.loaded
        changes = {
            self.keys[slot]: encode(_big_endian(value)) if value else b""
            for slot, value in self.values.items()
            if value != loaded[slot]
        }
        self.loaded = dict(self.values)
        return self.trie.write(changes)


class Accounts:
    """A mixin of State: what of it concerns accounts, their storage, what is warm, and transient storage."""

    def __init__(self, db: Any, state_root: bytes) -> None:
        """`db`: nodes and code by their keccak."""
        self._nodes = db
        self._trie = Trie(db.__getitem__, state_root)
        self._keys: dict[bytes, bytes] = {}  # keccak of an address
        self._loaded: dict[bytes, AccountValue | None] = {}  # before the block; None: does not exist
        self._accounts: dict[bytes, AccountValue | None] = {}  # now
        self._storages: dict[bytes, Storage] = {}
        self._written_to: list[Storage] = []  # by the transaction
        self._codes: dict[bytes, bytes] = {}
        self._new_codes: set[bytes] = set()
        self._warm: dict[Any, bool] = {}  # address, or (address, slot)
        self._transient: dict[tuple[bytes, int], bytes] = {}
        self._journal: list[tuple[dict[Any, Any], Any, Any]] = []  # (where, key, what stood there)

    # -- accounts ------------------------------------------------------------------------------------------------

    def _account(self, address: bytes) -> AccountValue | None:
        try:
            return self._accounts[address]
        except KeyError:
            return self._load(address)

    def _load(self, address: bytes) -> AccountValue | None:
        key = self._keys[address] = keccak(address)
        try:
            encoded = self._trie.get(key)
        except MissingNode as error:
            raise StoreDamaged(f"it lacks state: {error}") from error
        account = None
        if encoded:
            nonce, balance, root, code_hash = decode_node(encoded)
            account = AccountValue(int.from_bytes(nonce, "big"), int.from_bytes(balance, "big"), root, code_hash)
        self._loaded[address] = self._accounts[address] = account
        return account

    def _put(self, address: bytes, account: AccountValue | None) -> None:
        accounts = self._accounts
        self._journal.append((accounts, address, accounts[address]))
        accounts[address] = account

    def get_balance(self, address: bytes) -> int:
        account = self._account(address)
        return account.balance if account else 0

    def set_balance(self, address: bytes, balance: int) -> None:
        if not 0 <= balance <= UINT_256_MAX:
            raise ValidationError("a balance is out of range")
        nonce, _, root, code_hash = self._account(address) or _EMPTY
        self._put(address, AccountValue(nonce, balance, root, code_hash))

    def delta_balance(self, address: bytes, delta: int) -> None:
        self.set_balance(address, self.get_balance(address) + delta)

    def get_nonce(self, address: bytes) -> int:
        account = self._account(address)
        return account.nonce if account else 0

    def set_nonce(self, address: bytes, nonce: int) -> None:
        if not 0 <= nonce <= UINT_64_MAX:
            raise ValidationError("a nonce is out of range")
        _, balance, root, code_hash = self._account(address) or _EMPTY
        self._put(address, AccountValue(nonce, balance, root, code_hash))

    def increment_nonce(self, address: bytes) -> None:
        self.set_nonce(address, self.get_nonce(address) + 1)

    def get_code_hash(self, address: bytes) -> bytes:
        account = self._account(address)
        return account.code_hash if account else EMPTY_CODE

    def get_code(self, address: bytes) -> bytes:
        code_hash = self.get_code_hash(address)
        if code_hash == EMPTY_CODE:
            return b""
        code = self._codes.get(code_hash)
        if code is None:
            try:
                code = self._codes[code_hash] = self._nodes[code_hash]
            except KeyError as error:
                raise StoreDamaged(f"it lacks state: code {code_hash.hex()}") from error
        return code

    def set_code(self, address: bytes, code: bytes) -> None:
        code_hash = keccak(code)
        self._codes[code_hash] = code
        self._new_codes.add(code_hash)
        nonce, balance, root, _ = self._account(address) or _EMPTY
        self._put(address, AccountValue(nonce, balance, root, code_hash))

    def has_code_or_nonce(self, address: bytes) -> bool:
        account = self._account(address)
        return account is not None and (account.nonce != 0 or account.code_hash != EMPTY_CODE)

    def account_exists(self, address: bytes) -> bool:
        return self._account(address) is not None

    def account_is_empty(self, address: bytes) -> bool:
        account = self._account(address)
        return account is None or (not account.nonce and not account.balance and account.code_hash == EMPTY_CODE)

    def touch_account(self, address: bytes) -> None:
        if self._account(address) is None:
            self._put(address, _EMPTY)

    def delete_account(self, address: bytes) -> None:
        self._account(address)
        self._wipe(address)
        self._put(address, None)

    # -- storage -------------------------------------------------------------------------------------------------

    def _storage(self, address: bytes) -> Storage:
        storage = self._storages.get(address)
        if storage is None:
            account = self._account(address) or _EMPTY
            storage = self._storages[address] = Storage(Trie(self._nodes.__getitem__, account.storage_root))
        return storage

    def _value(self, storage: Storage, slot: int) -> int:
        try:
            return storage.values[slot]
        except KeyError:
            try:
                return storage.load(slot)
            except MissingNode as error:
                raise StoreDamaged(f"it lacks state: {error}") from error

    def get_storage(self, address: bytes, slot: int, from_journal: bool = True) -> int:
        """The value now, or, not from the journal, at the beginning of the transaction."""
        storage = self._storage(address)
        if not from_journal and slot in storage.originals:
            return storage.originals[slot]
        return self._value(storage, slot)

    def set_storage(self, address: bytes, slot: int, value: int) -> None:
        storage = self._storage(address)
        before = self._value(storage, slot)
        if slot not in storage.originals:
            if not storage.originals:
                self._written_to.append(storage)
            storage.originals[slot] = before
        self._journal.append((storage.values, slot, before))
        storage.values[slot] = value

    def delete_storage(self, address: bytes) -> None:
        nonce, balance, _, code_hash = self._account(address) or _EMPTY
        self._wipe(address)
        self._put(address, AccountValue(nonce, balance, EMPTY_ROOT, code_hash))

    def _wipe(self, address: bytes) -> None:
        storages = self._storages
        self._journal.append((storages, address, storages.get(address, _ABSENT)))
        storages[address] = Storage(Trie(self._nodes.__getitem__))

    # -- marks of a transaction ----------------------------------------------------------------------------------

    def _mark(self, key: Any) -> None:
        if key not in self._warm:
            self._journal.append((self._warm, key, _ABSENT))
            self._warm[key] = True

    def is_storage_warm(self, address: bytes, slot: int) -> bool:
        return (address, slot) in self._warm

    def mark_storage_warm(self, address: bytes, slot: int) -> None:
        self._mark((address, slot))

    def mark_address_warm(self, address: bytes) -> None:
        self._mark(address)

    def get_transient_storage(self, address: bytes, slot: int) -> bytes:
        return self._transient.get((address, slot), b"")

    def set_transient_storage(self, address: bytes, slot: int, value: bytes) -> None:
        key = (address, slot)
        self._journal.append((self._transient, key, self._transient.get(key, _ABSENT)))
        self._transient[key] = value

    def clear_transient_storage(self) -> None:
        for key, value in self._transient.items():
            self._journal.append((self._transient, key, value))
        self._transient.clear()

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def snapshot(self) -> int:
        return len(self._journal)

    def revert(self, snapshot: int) -> None:
        journal = self._journal
        while len(journal) > snapshot:
            where, key, before = journal.pop()
            if before is _ABSENT:
                where.pop(key, None)
            else:
                where[key] = before

    def commit(self, snapshot: int) -> None:
        """Nothing is to be done: what stood there before is still needed by the checkpoints below."""

    def lock_changes(self) -> None:
        """A transaction begins: what was done so far is not taken back any more."""
        self._journal.clear()
        self._warm.clear()
        for storage in self._written_to:
            storage.originals.clear()
        self._written_to.clear()

    # -- the end of a block --------------------------------------------------------------------------------------

    @property
    def state_root(self) -> bytes:
        """As of the beginning, or of the last `persist`."""
        return self._trie.root

    def persist(self) -> None:
        """Write all tries and new code. Raises StoreDamaged."""
        self.lock_changes()
        changes: dict[bytes, bytes] = {}
        try:
            for address, storage in self._storages.items():
                account = self._account(address)
                root = storage.written()
                if account is not None and account.storage_root != root:
                    self._accounts[address] = account._replace(storage_root=root)
                self._nodes.written.update(storage.trie.written)
            for address, account in self._accounts.items():
                if account != self._loaded[address]:
                    changes[self._keys[address]] = b"" if account is None else _encoded(account)
                    if account is not None and account.code_hash in self._new_codes:
                        self._nodes.written[account.code_hash] = self._codes[account.code_hash]
            self._trie.write(changes)
        except MissingNode as error:
            raise StoreDamaged(f"it lacks state: {error}") from error
        self._nodes.written.update(self._trie.written)
        self._loaded = dict(self._accounts)


def _big_endian(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _encoded(account: AccountValue) -> bytes:
    nonce, balance, root, code_hash = account
    return encode([_big_endian(nonce), _big_endian(balance), root, code_hash])
