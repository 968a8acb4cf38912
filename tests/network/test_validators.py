"""Changing the validators between processes, through their API."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.api import schema
from tests.network.kit import VALIDATORS, Net, network

pytestmark = pytest.mark.network


def send(net: Net, name: str, method: str, **params: object) -> schema.Submitted:
    """What a transaction of this node brought about, once it is final."""
    done = net.running[name].client.call(method, schema.Submitted, {**params, "wait_s": 60.0}, wait_s=60.0)
    assert done.final
    return done


def test_two_validators_agree_to_part_and_every_node_knows(tmp_path: Path) -> None:
    stays, goes = VALIDATORS[:2]
    with network(tmp_path, (stays, goes)) as net:
        net.start()
        for each in (stays, goes):
            net.wait_connected(each.name, validators=2)
        before = net.call(stays.name, "fl_validators", schema.Validators)
        assert [(each.connected, each.me) for each in before.validators] == [(True, True), (True, False)]
        subject = before.validators[1].address
        made = send(net, stays.name, "fl_proposeValidator", subject=subject, admit=False)
        assert (made.proposal, made.epoch) == (1, None)
        (proposal,) = net.call(stays.name, "fl_validators", schema.Validators).proposals
        assert (proposal.subject, proposal.admit, len(proposal.approvals), proposal.needed) == (subject, False, 1, 2)
        assert proposal.approved
        assert send(net, goes.name, "fl_approveValidator", id=1).epoch == 1

        def after(name: str) -> schema.Validators | None:
            found = net.call(name, "fl_validators", schema.Validators)
            return found if found.epoch == 1 else None

        for name in (stays.name, goes.name):
            found = net.wait(f"{name} to see the change", lambda name=name: after(name))
            assert [each.address for each in found.validators] == [before.validators[0].address]
            assert (found.quorum, found.proposals) == (1, [])
