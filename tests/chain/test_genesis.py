from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain import genesis
from chain.chain import Chain
from chain.contracts import FAUCET
from chain.contracts import bindings as b
from chain.genesis import InvalidNetwork, Network, ValidatorEntry, format_network, load_network, parse_network
from chain.store import Store
from chain.system import genesis_system
from tests.chain.chain_kit import SYSTEM, make_network, open_chain

TEXT = """
name = "dev"
chain_id = 7
timestamp = 1700000000

[[validators]]
address = "0x0000000000000000000000000000000000000001"
p2p = "/ip4/127.0.0.1/tcp/9000/p2p/12D3"

[[validators]]
address = "0x5AAEB6053F3E94C9B9A09F33669435E7EF1BEAED"

[balances]
"0x00000000000000000000000000000000000000aa" = "1000000000000000000"
"""


def test_a_network_file_is_parsed_with_its_defaults() -> None:
    network = parse_network(TEXT)
    assert network.validator_addresses[0] == bytes(19) + b"\x01"
    assert network.validators[1].p2p is None
    assert network.balances == {bytes(19) + b"\xaa": 10**18}
    assert (network.gas_limit, network.base_fee_wei, network.development) == (10_000_000, 7, False)
    assert network.bootstrap_addresses == ("/ip4/127.0.0.1/tcp/9000/p2p/12D3",)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("p2p =", "p2q =", "unknown key `p2q` at `validators[0]`"),
        ("name =", "nick =", "unknown key `nick`"),
        ('name = "dev"', "", "missing key `name`"),
        ("chain_id = 7", 'chain_id = "7"', "chain_id"),
        ("chain_id = 7", "chain_id = 0", "chain_id is 0"),
        ("chain_id = 7", "chain_id = 7\ngas_limit = 999", "gas_limit is 999"),
        ("chain_id = 7", "chain_id = 7\nquorum = 0.5", "quorum is 0.5"),
        ("chain_id = 7", "chain_id = 7\nquorum = nan", "quorum is nan"),
        ("chain_id = 7", "chain_id = 7\nblock_delay_s = 0", "block_delay_s"),
        ('"dev"', '""', "name must have"),
        ("000001", "00001", "validators[0].address"),
        ("0x5AAEB6053F3E94C9B9A09F33669435E7EF1BEAED", "0x" + "00" * 19 + "01", "an address is listed twice"),
        ("0x5AAEB6053F3E94C9B9A09F33669435E7EF1BEAED", "0x5AAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "checksum"),
        ('"1000000000000000000"', "1000000000000000000", "is not a string of digits"),
        ('"1000000000000000000"', '"-1"', "is not a string of digits"),
        ('"1000000000000000000"', '"' + "9" * 60 + '"', "is not a string of digits"),
        ("[balances]", '[balances]\n"0x00000000000000000000000000000000000000AA" = "1"', "listed twice"),
        ("[balances]", "[balances", "network file"),
        ("[balances]", "[joining]\nfaucets = true\n[balances]", "unknown key `faucets` at `joining`"),
        ("[balances]", "[joining]\nfaucet_wei = 7\n[balances]", "joining.faucet_wei: 7 is not a string of digits"),
        ("[balances]", "[joining]\nfaucet = true\n[balances]", "joining.faucet_wei is 0, less than a grant"),
        ("[balances]", "[joining]\ngrant_gas = 21000\n[balances]", "joining.grant_gas is 21000"),
        ("[balances]", "[joining]\ngrants_max = 0\n[balances]", "joining.grants_max is 0"),
        ("[balances]", "[joining]\nperiod_s = 0\n[balances]", "joining.period_s is 0"),
    ],
)
def test_a_faulty_network_file_is_refused_by_the_name_of_the_key(old: str, new: str, reason: str) -> None:
    changed = TEXT.replace(old, new)
    assert changed != TEXT
    with pytest.raises(InvalidNetwork) as refused:
        parse_network(changed)
    assert reason in str(refused.value)


def test_a_checksummed_address_is_taken() -> None:
    checksummed = TEXT.replace("5AAEB6053F3E94C9B9A09F33669435E7EF1BEAED", "5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed")
    assert parse_network(checksummed) == parse_network(TEXT)


@given(st.text(max_size=200))
def test_no_text_raises_anything_but_invalid_network(text: str) -> None:
    with pytest.raises(InvalidNetwork):
        parse_network(text)


networks = st.builds(
    Network,
    name=st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=20),
    chain_id=st.integers(1, genesis.CHAIN_ID_MAX),
    timestamp=st.integers(0, 1 << 40),
    validators=st.lists(st.binary(min_size=20, max_size=20), min_size=1, max_size=5, unique=True).map(
        lambda found: tuple(ValidatorEntry(address, "/ip4/1.2.3.4" if address[0] % 2 else None) for address in found)
    ),
    development=st.booleans(),
    gas_limit=st.integers(genesis.GAS_LIMIT_MIN, genesis.GAS_LIMIT_MAX),
    base_fee_wei=st.integers(0, 10**18),
    block_delay_s=st.floats(0.001, 600),
    time_drift_s=st.floats(1, 3600),
    quorum=st.none() | st.floats(0.67, 1.0),
    bootstrap=st.lists(st.text("abc/\"\\'\n", max_size=5), max_size=3).map(tuple),
    balances=st.dictionaries(st.binary(min_size=20, max_size=20), st.integers(0, genesis.WEI_MAX), max_size=3),
    joining=st.builds(
        genesis.Joining,
        sponsors=st.booleans(),
        faucet=st.booleans(),
        faucet_wei=st.integers(10**30, genesis.WEI_MAX),
        grant_gas=st.integers(genesis.GRANT_GAS_MIN, genesis.GRANT_GAS_MAX),
        grants_max=st.integers(1, genesis.GRANTS_MAX),
        period_s=st.integers(1, genesis.PERIOD_MAX_S),
    ),
)


@settings(max_examples=50)
@given(networks)
def test_a_formatted_network_parses_to_itself(network: Network) -> None:
    assert parse_network(format_network(network)) == network


@pytest.mark.parametrize(
    "change",
    [
        {"name": "x"},
        {"chain_id": 8},
        {"timestamp": 1},
        {"development": True},
        {"gas_limit": 16_000_000},
        {"base_fee_wei": 8},
        {"block_delay_s": 0.3},
        {"time_drift_s": 3.0},
        {"quorum": 1.0},
        {"validators": make_network().validators[::-1]},
        {"validators": make_network().validators[:3]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_digest_commits_to_every_constant(change: dict[str, object]) -> None:
    network = make_network()
    assert msgspec.structs.replace(network, **change).digest() != network.digest()


def test_the_digest_does_not_commit_to_where_peers_are() -> None:
    network = make_network()
    moved = tuple(ValidatorEntry(each.address, "/ip4/1.2.3.4/tcp/1") for each in network.validators)
    assert msgspec.structs.replace(network, validators=moved, bootstrap=("x",)).digest() == network.digest()


@pytest.mark.parametrize(
    ("count", "quorum", "size"),
    [(1, None, 1), (2, None, 2), (3, None, 3), (4, None, 3), (7, None, 5), (4, 1.0, 4), (7, 0.67, 5), (10, 0.8, 8)],
)
def test_the_quorum_is_above_two_thirds_and_can_only_be_raised(count: int, quorum: float | None, size: int) -> None:
    validators = tuple(ValidatorEntry(bytes([index]) * 20) for index in range(count))
    network = Network(name="q", chain_id=1, timestamp=0, validators=validators, quorum=quorum)
    assert network.quorum_size == size


def test_a_file_that_cannot_be_read_is_refused_with_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidNetwork, match=r"cannot read .*absent"):
        load_network(tmp_path / "absent")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidNetwork, match="not UTF-8"):
        load_network(binary)
    good = tmp_path / "good"
    good.write_text(TEXT)
    assert load_network(good) == parse_network(TEXT)
    monkeypatch.setattr(genesis, "FILE_BYTES_MAX", 10)
    with pytest.raises(InvalidNetwork, match="larger than"):
        load_network(good)


def test_the_genesis_digest_commits_to_balances_contracts_and_constants(tmp_path: Path) -> None:
    networks = [make_network(), make_network(balances={b"\x01" * 20: 5}), make_network(base_fee_wei=9)]
    chains = [open_chain(tmp_path / str(index), network) for index, network in enumerate(networks)]
    bare = Chain(Store(tmp_path / "bare", map_size=1 << 24), networks[0], replace(SYSTEM, accounts=lambda _network: {}))
    assert len({chain.genesis_digest for chain in (*chains, bare)}) == len(networks) + 1


def test_the_genesis_state_commits_to_how_newcomers_may_start(tmp_path: Path) -> None:
    ways = [
        genesis.Joining(),
        genesis.Joining(sponsors=True),
        genesis.Joining(faucet=True, faucet_wei=10**18),
        genesis.Joining(faucet=True, faucet_wei=10**18, grants_max=1),
    ]
    chains = [
        Chain(Store(tmp_path / str(index), map_size=1 << 24), make_network(joining=way), genesis_system())
        for index, way in enumerate(ways)
    ]
    assert len({chain.genesis_digest for chain in chains}) == len(ways)
    off, sponsors, faucet, _ = chains
    allowed = b.sponsors_view()
    assert [allowed.decode(chain.call(allowed.to, allowed.data)) for chain in (off, sponsors)] == [False, True]
    assert (off.balance(FAUCET), faucet.balance(FAUCET)) == (0, 10**18)
    left = b.grants_left_view()
    assert left.decode(faucet.call(left.to, left.data)) == 100
    assert left.decode(off.call(left.to, left.data)) == 0
