"""flnode validator list, propose, approve"""

from __future__ import annotations

import click

from cli.account import FINAL_WAIT_S, report
from cli.client import Client
from cli.options import node_command
from cli.output import print_json, stdout, table
from node.api import schema


@click.group()
def validator() -> None:
    """Who validates, and how that changes: by proposals that more than two thirds of the validators approve.

    \b
    flnode validator list --config ~/mynode
    flnode validator propose 0x52908400098527886E0F7030069857D2E4169EE7 --config ~/mynode
    flnode validator approve 1 --config ~/mynode
    """


@validator.command(name="list")
@node_command
def list_validators(client: Client, as_json: bool) -> None:
    """The validators of the present epoch, and the open proposals to change them.

    \b
    flnode validator list --config ~/mynode
    flnode validator list --json | jq .proposals
    """
    found = client.call("fl_validators", schema.Validators)
    if as_json:
        print_json(found)
        return
    out = stdout()
    out.print(f"epoch {found.epoch}, {len(found.validators)} validators, quorum {found.quorum}\n")
    validators = [
        (index, each.address, "this node" if each.me else "yes" if each.connected else "no")
        for index, each in enumerate(found.validators)
    ]
    out.print(table((">INDEX", "VALIDATOR", "CONNECTED"), validators))
    for each in found.evidence:
        where = f"epoch {each.epoch}, view {each.view}"
        out.print(f"\nevidence: {each.validator} cast two votes that contradict each other ({where})")
    if not found.proposals:
        out.print("\nno proposal is open")
        return
    proposals = [
        (each.id, _change(each), each.subject, _progress(each), "yes" if each.approved else "no", each.proposer)
        for each in found.proposals
    ]
    out.print()
    out.print(table((">PROPOSAL", "CHANGE", "ACCOUNT", "APPROVALS", "THIS NODE'S", "PROPOSER"), proposals))


@validator.command()
@click.argument("address")
@click.option("--remove", is_flag=True, help="Remove the validator ADDRESS instead of admitting a new one.")
@node_command
def propose(client: Client, address: str, remove: bool, as_json: bool) -> None:
    """Propose to admit the account ADDRESS as a validator. This node's approval is included.

    The node must be a validator itself. The change is made as soon as more than two thirds of the validators have
    approved; it ends the epoch, and all other proposals lapse.

    \b
    flnode validator propose 0x52908400098527886E0F7030069857D2E4169EE7 --config ~/mynode
    flnode validator propose 0x52908400098527886E0F7030069857D2E4169EE7 --remove --config ~/mynode
    """
    params = {"subject": address, "admit": not remove, "wait_s": FINAL_WAIT_S}
    done = client.call("fl_proposeValidator", schema.Submitted, params, wait_s=FINAL_WAIT_S)
    what = f"proposal {done.proposal} to {'remove' if remove else 'admit'} {address} made"
    _report(client, done, what, as_json)


@validator.command()
@click.argument("proposal", metavar="ID", type=click.IntRange(min=1))
@node_command
def approve(client: Client, proposal: int, as_json: bool) -> None:
    """Approve the open proposal ID. The node must be a validator.

    \b
    flnode validator approve 1 --config ~/mynode
    """
    params = {"id": proposal, "wait_s": FINAL_WAIT_S}
    done = client.call("fl_approveValidator", schema.Submitted, params, wait_s=FINAL_WAIT_S)
    _report(client, done, f"proposal {proposal} approved", as_json)


def _report(client: Client, done: schema.Submitted, what: str, as_json: bool) -> None:
    if done.epoch is not None:
        what += f"; the change is made, epoch {done.epoch} begins"
    elif done.final and not as_json:
        now = client.call("fl_validators", schema.Validators)
        what += "".join(f"; {_progress(each)} approvals" for each in now.proposals if each.id == done.proposal)
    report(done, what, as_json)


def _change(proposal: schema.Proposal) -> str:
    return "admit" if proposal.admit else "remove"


def _progress(proposal: schema.Proposal) -> str:
    return f"{len(proposal.approvals)} of {proposal.needed}"
