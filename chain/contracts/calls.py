"""Calldata for every function of the contracts that accounts call, each with the gas that its worst case needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from eth_hash.auto import keccak

from chain.contracts import FAUCET, REPLICATED, VALIDATORS, compiled
from chain.contracts.events import Terms

# Gas limits: measured worst cases (tests/contracts/test_gas.py prints and bounds them) and some to spare.
OPENING_GAS: Final = 6_600_000  # whatever may open a round: up to 31 drawn, 16 evicted, 2 seats settled of each
POST_GAS: Final = 950_000
TOP_UP_GAS: Final = 200_000
CANCEL_GAS: Final = 250_000
LEAVE_GAS: Final = 300_000
COMMIT_GAS: Final = 350_000
REVEAL_GAS: Final = 450_000
APPEAL_GAS: Final = 300_000
RESOLVE_GAS: Final = 400_000
EXPIRE_GAS: Final = 100_000
END_GAS: Final = 250_000
SETTLE_GAS: Final = 500_000
WITHDRAW_GAS: Final = 600_000
ASK_SPONSOR_GAS: Final = 100_000
SPONSOR_GAS: Final = 250_000
UNSPONSOR_GAS: Final = 150_000
GRANT_GAS: Final = 600_000  # with 100 validators
PROPOSE_GAS: Final = 600_000  # with 100 validators
APPROVE_GAS: Final = 900_000  # what removes the first of 100 validators


@dataclass(frozen=True, slots=True)
class Call:
    """What a transaction to a contract carries."""

    to: bytes
    value: int  # wei
    data: bytes
    gas: int  # limit


def post(manifest: bytes, base: bytes, update_size: int, seed: bytes, terms: Terms) -> Call:
    """Post a job; the value is what the terms promise."""
    return _call("post", POST_GAS, manifest, base, update_size, seed, *_fields(terms), value=terms.escrow)


def top_up(job: int, rounds: int, terms: Terms) -> Call:
    """Promise more rounds of a job with these terms."""
    return _call("top_up", TOP_UP_GAS, job, rounds, value=terms.price_of(rounds))


def cancel(job: int) -> Call:
    return _call("cancel", CANCEL_GAS, job)


def enrol(job: int, deposit: int) -> Call:
    """Enrol, or add `deposit` wei to one's deposit."""
    return _call("enrol", OPENING_GAS, job, value=deposit)


def leave(job: int) -> Call:
    return _call("leave", LEAVE_GAS, job)


def commit(job: int, round_: int, attempt: int, ciphertext: bytes, r_hash: bytes, s_hash: bytes) -> Call:
    return _call("commit", COMMIT_GAS, job, round_, attempt, ciphertext, r_hash, s_hash)


def reveal(
    job: int, round_: int, attempt: int, r: bytes, mask: bytes, update_digest: bytes, auto_finalise: bool = True
) -> Call:
    """Reveal. If the job's terms say `auto_finalise`, the deciding reveal also opens a round, and needs the gas."""
    gas = OPENING_GAS if auto_finalise else REVEAL_GAS
    return _call("reveal", gas, job, round_, attempt, r, mask, update_digest)


def decode_reveal(data: bytes) -> tuple[int, int, int, bytes, bytes, bytes] | None:
    """(job, round, attempt, R, S, update digest) of a call that `reveal` encoded; None for other calldata."""
    _, selector, types = _FUNCTIONS["reveal"]
    if data[:4] != selector or len(data) < 4 + 32 * 7:
        return None
    words = [data[at : at + 32] for at in range(4, 4 + 32 * 7, 32)]
    numbers = [int.from_bytes(word, "big") for word in words]
    mask = data[4 + 32 * 7 :][: min(numbers[6], len(data))]
    found = (numbers[0], numbers[1], numbers[2], words[3], mask, words[5])
    return found if encode(selector, types, found) == data else None


def appeal(job: int, round_: int, attempt: int, bond: int) -> Call:
    """Have a majority audited; `bond` is the one of the job's terms, wei."""
    return _call("appeal", APPEAL_GAS, job, round_, attempt, value=bond)


def resolve(job: int, round_: int, attempt: int, update_digest: bytes, auto_finalise: bool = True) -> Call:
    """State what an audited round gives. With `auto_finalise`, as of `reveal`, it may also open a round."""
    gas = OPENING_GAS if auto_finalise else RESOLVE_GAS
    return _call("resolve", gas, job, round_, attempt, update_digest)


def decode_resolve(data: bytes) -> tuple[int, int, int, bytes] | None:
    """(job, round, attempt, update digest) of a call that `resolve` encoded; None for other calldata."""
    _, selector, _ = _FUNCTIONS["resolve"]
    if data[:4] != selector or len(data) != 4 + 32 * 4:
        return None
    words = [data[at : at + 32] for at in range(4, len(data), 32)]
    job, round_, attempt = (int.from_bytes(word, "big") for word in words[:3])
    return job, round_, attempt, words[3]


def finalise(job: int, round_: int, attempt: int, stop: bool) -> Call:
    return _call("finalise", OPENING_GAS, job, round_, attempt, stop)


def expire(job: int, round_: int, attempt: int) -> Call:
    return _call("expire", EXPIRE_GAS, job, round_, attempt)


def close(job: int, round_: int, attempt: int) -> Call:
    return _call("close", OPENING_GAS, job, round_, attempt)


def end(job: int) -> Call:
    return _call("end", END_GAS, job)


def settle(job: int, worker: bytes) -> Call:
    return _call("settle", SETTLE_GAS, job, worker)


def withdraw(job: int) -> Call:
    return _call("withdraw", WITHDRAW_GAS, job)


def ask_sponsor(job: int) -> Call:
    """Ask for somebody to put one's deposit."""
    return _call("ask_sponsor", ASK_SPONSOR_GAS, job)


def sponsor(job: int, worker: bytes, amount: int) -> Call:
    """Offer `amount` wei as the deposit of a worker that has asked."""
    return _call("sponsor", SPONSOR_GAS, job, worker, value=amount)


def unsponsor(job: int, worker: bytes) -> Call:
    """Take an offer back."""
    return _call("unsponsor", UNSPONSOR_GAS, job, worker)


def grant(account: bytes) -> Call:
    """Give a newcomer the coins for its first fees; for validators."""
    return _call("grant", GRANT_GAS, account)


def propose(subject: bytes, admit: bool) -> Call:
    """Propose to admit an account as a validator, or to remove one."""
    return _call("propose", PROPOSE_GAS, subject, admit)


def approve(proposal: int) -> Call:
    """Approve a change of the validators; the deciding approval makes it."""
    return _call("approve", APPROVE_GAS, proposal)


def encode(selector: bytes, types: tuple[str, ...], values: tuple[object, ...]) -> bytes:
    """Calldata of a function whose arguments are single words, and at most a few `bytes`.

    Raises:
        ValueError: a value does not fit its type exactly; nothing is padded or cut.
    """
    if len(types) != len(values):
        raise ValueError(f"{len(values)} arguments for {len(types)} parameters")
    head, tail = [], b""
    for kind, value in zip(types, values, strict=True):
        if kind == "bytes":
            if not isinstance(value, bytes):
                raise ValueError(f"{value!r} is not bytes")
            head.append((32 * len(types) + len(tail)).to_bytes(32, "big"))
            tail += len(value).to_bytes(32, "big") + value + bytes(-len(value) % 32)
        else:
            head.append(_word(kind, value))
    return selector + b"".join(head) + tail


def flat_types(inputs: list[dict[str, Any]]) -> tuple[str, ...]:
    """Types of the words that encode ABI inputs; a static struct is the row of its members."""
    types: list[str] = []
    for entry in inputs:
        types.extend(flat_types(entry["components"]) if entry["type"] == "tuple" else (entry["type"],))
    return tuple(types)


def selector_of(name: str, inputs: list[dict[str, Any]]) -> bytes:
    return keccak(f"{name}({','.join(_type_name(entry) for entry in inputs)})".encode())[:4]


def _type_name(entry: dict[str, Any]) -> str:
    if entry["type"] != "tuple":
        return str(entry["type"])
    return f"({','.join(_type_name(member) for member in entry['components'])})"


def _word(kind: str, value: object) -> bytes:
    match kind, value:
        case "bool", bool():
            return int(value).to_bytes(32, "big")
        case "uint256", int() if not isinstance(value, bool) and 0 <= value < 2**256:
            return value.to_bytes(32, "big")
        case "bytes32", bytes() if len(value) == 32:
            return value
        case "address", bytes() if len(value) == 20:
            return value.rjust(32, b"\0")
    raise ValueError(f"{value!r} is not a {kind}")


def _fields(terms: Terms) -> tuple[object, ...]:
    return tuple(getattr(terms, name) for name in Terms.__slots__)


_FUNCTIONS: Final = {
    entry["name"]: (address, selector_of(entry["name"], entry["inputs"]), flat_types(entry["inputs"]))
    for address, contract in ((REPLICATED, "replicated"), (VALIDATORS, "validators"), (FAUCET, "faucet"))
    for entry in compiled()[contract]["abi"]
    if entry["type"] == "function"
}


def _call(name: str, gas: int, *values: object, value: int = 0) -> Call:
    address, selector, types = _FUNCTIONS[name]
    return Call(address, value, encode(selector, types, values), gas)
