"""What a node has promised and whom it knows outlive it: real processes, killed with signal 9."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from chain.transaction import sign_transaction
from cli.local_network import CHAIN_ID, Member, Node, free_ports
from node.api import schema
from node.keys import load_account_key
from tests.network.kit import VALIDATORS, Net, network

pytestmark = pytest.mark.network
CLIENT = Member("client", ("observer",))
SOMEBODY = b"\x11" * 20


def test_what_a_client_submitted_to_a_node_that_is_alone_becomes_final_although_it_was_killed(tmp_path: Path) -> None:
    """And by the peer book: when it comes back, all its bootstrap addresses are dead."""

    def change(node: Node) -> None:
        if node.member == CLIENT:  # of the validators' addresses it shall know only what its configuration says
            file = node.config.network_path
            validator = re.search(r'(?m)^p2p = "(.*)"\n', file.read_text())
            assert validator is not None
            file.write_text(file.read_text().replace(validator[0], ""))
            bootstrap(node, validator[1])

    with network(tmp_path, (VALIDATORS[0], CLIENT), change) as net:
        net.start()
        net.wait_connected("client", 1)
        net.wait("the validator to be known", lambda: net.call("client", "fl_knownPeers", list[schema.KnownPeer]))
        net.kill("validator-1")
        key = load_account_key(net.nodes["client"].config.account_key_path)
        raw = sign_transaction(key, CHAIN_ID, 0, SOMEBODY, 5, b"", 21_000, fee=10**9, tip=1)
        digest = net.call("client", "eth_sendRawTransaction", str, raw="0x" + raw.hex())
        net.kill("client")

        bootstrap(net.nodes["client"], f"/ip4/127.0.0.1/tcp/{free_ports(1)[0]}")
        net.start("client")
        net.wait("the client's node to answer again", lambda: net.status("client"))
        assert receipt_of(net, digest) is None
        net.start("validator-1")
        receipt = net.wait("the receipt", lambda: receipt_of(net, digest))
        assert receipt["status"] == "0x1"


def bootstrap(node: Node, address: str) -> None:
    file = node.config.file
    file.write_text(re.sub(r"(?m)^bootstrap = .*$", f'bootstrap = ["{address}"]', file.read_text()))


def receipt_of(net: Net, digest: str) -> dict[str, Any] | None:
    return net.call("client", "eth_getTransactionReceipt", dict[str, Any] | None, hash=digest)
