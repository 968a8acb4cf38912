"""Random programs for the EVM, and stock py-evm to run them beside ours.

A program is a row of snippets, each of which pushes what it needs and folds what it gets into an accumulator in memory,
so that a wrong result anywhere changes the log at the program's end. What the chain does otherwise than Cancun
(docs/PROTOCOL.md, section 3) is left out: no call of the precompiles 6 to 10, no call with more than 1 KiB of input.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from eth._utils.address import generate_safe_contract_address
from eth.consensus import ConsensusContext
from eth.constants import BLANK_ROOT_HASH
from eth.db.atomic import AtomicDB
from eth.db.chain import ChainDB
from eth.vm.chain_context import ChainContext
from eth.vm.execution_context import ExecutionContext
from eth.vm.forks.cancun import CancunVM
from eth.vm.forks.cancun.computation import CancunComputation
from eth.vm.forks.cancun.state import CancunState
from eth.vm.forks.cancun.transaction_context import CancunTransactionContext
from eth.vm.forks.cancun.transactions import CancunTransactionBuilder
from eth.vm.message import Message

from chain.evm import Account, Header, Layers
from chain.evm_machine import Computation, State
from tests.chain.chain_kit import ADDRESSES, CHAIN_ID

COINBASE = b"\xcb" * 20
ACTORS = [b"\xac" * 19 + bytes([index]) for index in range(6)]  # hold random programs
EMPTY = [b"\xee" * 19 + bytes([index]) for index in range(3)]  # exist and are empty, as only genesis can leave them
NOBODY = [b"\xdd" * 19 + bytes([index]) for index in range(4)]
PRECOMPILES = [index.to_bytes(20, "big") for index in (1, 2, 3, 4, 5)]
EDGES = [0, 1, 2, 3, 31, 32, 255, 256, 2**64, 2**255 - 1, 2**255, 2**256 - 2, 2**256 - 1]

FOLD = bytes.fromhex("5f5160030201" + "5f52")  # memory[0] = memory[0] * 3 + the top of the stack
_TWO = [1, 2, 3, 4, 5, 6, 7, 0xA, 0xB, 0x10, 0x11, 0x12, 0x13, 0x14, 0x16, 0x17, 0x18, 0x1A, 0x1B, 0x1C, 0x1D]
_THREE = [8, 9]
_ONE = [0x15, 0x19, 0x54, 0x5C, 0x31, 0x3B, 0x3F, 0x35, 0x40, 0x49]
_NONE = [0x30, 0x32, 0x33, 0x34, 0x36, 0x38, 0x3A, 0x3D, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x4A]
_NONE += [0x58, 0x59, 0x5A, 0x5F]


def push(value: int | bytes) -> bytes:
    data = value if isinstance(value, bytes) else value.to_bytes((value.bit_length() + 7) // 8, "big")
    return bytes([0x5F + len(data)]) + data


def returning(runtime: bytes) -> bytes:
    """Init code that leaves `runtime`, of at most 32 bytes."""
    return push(runtime.ljust(32, b"\0")) + bytes.fromhex("5f52") + push(len(runtime)) + bytes.fromhex("5ff3")


INITS = [
    returning(
        bytes.fromhex("5f5460010180" + "5f55") + b"\x60\x07\x60\x01\x55\x33\xff"
    ),  # counts, writes, destroys itself
    returning(bytes.fromhex("60015f5500")),
    bytes.fromhex("60095f55600a600155") + returning(bytes.fromhex("5f5f5533ff")),  # clears a slot of its own
    bytes.fromhex("60015f5533ff"),  # gone before it is there
    bytes.fromhex("60015f55600160025d5f5ffd"),  # fails after writing
    bytes.fromhex("60ef5f5360015ff3"),  # code that EIP-3541 refuses
    b"",
    bytes.fromhex("fe"),
]
CREATED = [
    generate_safe_contract_address(actor, salt, init)  # type: ignore[arg-type]
    for actor in ACTORS[:3]
    for salt in (0, 1)
    for init in INITS[:4]
]
PEOPLE = [*ACTORS, *ACTORS, *CREATED, *ADDRESSES[:2], *EMPTY, *NOBODY, *PRECOMPILES, COINBASE]


class Writer:
    """Writes programs from one stream of random choices."""

    def __init__(self, choose: random.Random) -> None:
        self.choose = choose

    def program(self, length: int, ends: Sequence[int] = (0, 0, 0, 0xF3, 0xFD, 0xFE, 0xFF, 0x5B)) -> bytes:
        code = b"".join(self.snippet() for _ in range(length))
        code += push(0x40) + push(0) + b"\xa0"  # LOG0 of the accumulator and what stands behind it
        end = self.choose.choice(ends)
        if end in (0xF3, 0xFD):
            code += push(self.choose.choice((0, 32, 64))) + push(0)
        if end == 0xFF:
            code += push(self.choose.choice(PEOPLE))
        return code + bytes([end])

    def snippet(self) -> bytes:
        kinds = (
            (self.arithmetic, 6), (self.store, 6), (self.transient, 2), (self.call, 6), (self.create, 2),
            (self.create2, 3), (self.memory, 3), (self.log, 1), (self.jump, 1), (self.stack, 2), (self.copy, 2),
            (self.garbage, 0.12),
        )  # fmt: skip
        (write,) = self.choose.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])
        return write()

    def word(self) -> bytes:
        choose = self.choose
        return push(choose.choice((choose.choice(EDGES), choose.getrandbits(256), choose.choice(PEOPLE))))

    def arithmetic(self) -> bytes:
        choose = self.choose
        arguments = choose.choice((0, 1, 2, 2, 2, 3))
        opcode = choose.choice((_NONE, _ONE, _TWO, _THREE)[arguments])
        small = opcode in (0x54, 0x5C, 0x0B, 0x1A, 0x1B, 0x1C, 0x1D)
        words = [self.word() for _ in range(arguments)]
        if small and choose.random() < 0.8:
            words[-1] = push(choose.randrange(40))
        return b"".join(words) + bytes([opcode]) + FOLD

    def store(self) -> bytes:
        choose = self.choose
        value = push(choose.choice((0, 0, 1, 2, 2**200)))
        return value + push(choose.randrange(5)) + b"\x55" + (push(choose.randrange(5)) + b"\x54" + FOLD)

    def transient(self) -> bytes:
        choose = self.choose
        return (
            push(choose.randrange(3)) + push(choose.randrange(3)) + b"\x5d" + push(choose.randrange(3)) + b"\x5c" + FOLD
        )

    def call(self) -> bytes:
        choose = self.choose
        opcode = choose.choice((0xF1, 0xF1, 0xF2, 0xF4, 0xFA))
        size = push(choose.choice((0, 0, 32, 100, 300)))
        code = push(choose.choice((0, 32, 40))) + push(0x40) + size + push(choose.choice((0, 0x20)))
        if opcode in (0xF1, 0xF2):
            code += push(choose.choice((0, 0, 0, 1, 2**100)))
        gas = push(choose.choice((2_300, 10_000, 50_000))) if choose.random() < 0.6 else b"\x5a"
        return code + push(choose.choice(PEOPLE)) + gas + bytes([opcode]) + FOLD + b"\x3d" + FOLD

    def _init(self) -> tuple[bytes, int, int]:
        """Code that puts init code into memory, where it stands, and its size."""
        init = self.choose.choice(INITS) if self.choose.random() < 0.8 else self.program(3)[:128]
        rows = [init[at : at + 32].ljust(32, b"\0") for at in range(0, len(init), 32)]
        return b"".join(push(row) + push(0x80 + 32 * n) + b"\x52" for n, row in enumerate(rows)), 0x80, len(init)

    def create(self) -> bytes:
        code, at, size = self._init()
        return code + push(size) + push(at) + push(self.choose.choice((0, 0, 1))) + b"\xf0" + FOLD + b"\x3d" + FOLD

    def create2(self) -> bytes:
        """Half the time what was made is called at once: some destroys itself, in the transaction that made it."""
        code, at, size = self._init()
        salt = push(self.choose.randrange(2))
        code += salt + push(size) + push(at) + push(self.choose.choice((0, 0, 3))) + b"\xf5"
        if self.choose.random() < 0.5:
            return code + FOLD + b"\x3d" + FOLD
        return code + bytes.fromhex("5f5f5f5f5f") + b"\x85\x5a\xf1" + FOLD + FOLD

    def memory(self) -> bytes:
        choose = self.choose
        at = push(choose.choice((0, 1, 33, 64, 500, 2**20, 2**255)) if choose.random() < 0.1 else choose.randrange(96))
        return choose.choice(
            (
                self.word() + at + b"\x52",
                self.word() + at + b"\x53",
                at + b"\x51" + FOLD,
                push(choose.randrange(70)) + at + b"\x20" + FOLD,
                push(choose.randrange(70)) + push(choose.randrange(70)) + at + b"\x5e",
            )
        )

    def log(self) -> bytes:
        topics = self.choose.randrange(5)
        return (
            b"".join(self.word() for _ in range(topics))
            + push(self.choose.randrange(70))
            + push(0)
            + bytes([0xA0 + topics])
        )

    def jump(self) -> bytes:
        """Over an INVALID or, taken or not, over a PUSH0 POP; now and then to where no jump may go."""
        to = 5 if self.choose.random() < 0.05 else 6
        if self.choose.random() < 0.5:
            return bytes.fromhex("5860") + bytes([to]) + bytes.fromhex("0156fe5b")
        return (
            push(self.choose.randrange(1, 3) - 1 or 0)
            + bytes.fromhex("5860")
            + bytes([to + 1])
            + bytes.fromhex("01575f505b")
        )

    def stack(self) -> bytes:
        depth = self.choose.randrange(1, 17)
        words = b"".join(push(self.choose.randrange(256)) for _ in range(depth + 1))
        return words + bytes([0x90 + depth - 1, 0x80 + depth]) + FOLD + FOLD + b"\x50" * depth

    def copy(self) -> bytes:
        """CALLDATACOPY, CODECOPY, RETURNDATACOPY, EXTCODECOPY to memory."""
        choose = self.choose
        opcode = choose.choice((0x37, 0x39, 0x3E, 0x3C))
        size = choose.choice((0, 0, 20, 70)) if opcode != 0x3E else choose.choice((0, 0, 0, 32))
        start = choose.randrange(40) if opcode != 0x3E else 0
        code = push(size) + push(start) + push(choose.randrange(64))
        return code + (push(choose.choice(PEOPLE)) if opcode == 0x3C else b"") + bytes([opcode])

    def garbage(self) -> bytes:
        """Anything but what calls."""
        return bytes(byte for byte in self.choose.randbytes(3) if not 0xF0 <= byte <= 0xFA)


def accounts(choose: random.Random) -> dict[bytes, Account]:
    writer = Writer(choose)
    found = dict.fromkeys(ADDRESSES, Account(balance=10**24)) | dict.fromkeys(EMPTY, Account())
    for actor in ACTORS:
        slots = {slot: choose.randrange(3) for slot in range(3)}
        found[actor] = Account(choose.choice((0, 1, 10**20)), 1, writer.program(choose.randrange(4, 24)), slots)
    return found


class Stock:
    """CancunVM as it comes, over a database of its own."""

    def __init__(self, genesis: Header, state: dict[bytes, bytes]) -> None:
        self._chaindb = ChainDB(AtomicDB())
        for key, value in state.items():
            self._chaindb.db[key] = value
        self._chaindb.persist_header(genesis)

    def child(self, blank: Header, raws: Sequence[bytes]) -> tuple[Header, list[bytes]]:
        """The header that it makes of transactions under a blank one, which becomes the next parent; the receipts."""
        vm = CancunVM(blank, self._chaindb, ChainContext(CHAIN_ID), ConsensusContext(self._chaindb.db))
        vm.block_preprocessing(vm.get_block())
        transactions: list[Any] = [CancunTransactionBuilder.decode(raw) for raw in raws]
        filled, receipts, _ = vm.apply_all_transactions(transactions, blank)
        block = vm.set_block_transactions_and_withdrawals(vm.get_block(), filled, transactions, receipts)
        header = vm.finalize_block(block).block.header
        self._chaindb.persist_header(header)
        return header, [receipt.encode() for receipt in receipts]


def stock_call(code: bytes, gas: int) -> tuple[bytes, int, bool]:
    """(output, gas used, failed) of running a code at SUBJECT in an empty state, as stock does it."""
    context = ExecutionContext(COINBASE, 1, 1, 0, bytes(32), 10**7, (bytes(32),), CHAIN_ID, 7, 0)
    state = CancunState(AtomicDB(), context, BLANK_ROOT_HASH)
    return _outcome(state, CancunComputation, code, gas)


def our_call(code: bytes, gas: int) -> tuple[bytes, int, bool]:
    """As stock_call, as we do it."""
    context = ExecutionContext(COINBASE, 1, 1, 0, bytes(32), 10**7, (bytes(32),), CHAIN_ID, 7, 0)
    state = State(Layers((), lambda _: None), context, BLANK_ROOT_HASH)
    return _outcome(state, Computation, code, gas)


def _outcome(state: Any, computation_class: Any, code: bytes, gas: int) -> tuple[bytes, int, bool]:
    sender, subject = ADDRESSES[0], ACTORS[0]
    message = Message(gas, subject, sender, 0, bytes(range(60)), code)  # type: ignore[arg-type]
    done = computation_class.apply_message(state, message, CancunTransactionContext(9, sender))  # type: ignore[arg-type]
    return done.output, done.get_gas_used(), done.is_error
