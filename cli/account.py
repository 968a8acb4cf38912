"""flnode account show, history, withdraw, send"""

from __future__ import annotations

import click

from cli.amounts import format_wei, parse_amount
from cli.client import Client
from cli.options import node_command
from cli.output import print_json, stdout, table
from node.api import schema

FINAL_WAIT_S = 30.0


@click.group()
def account() -> None:
    """The node's own account: balance, deposits, payments.

    \b
    flnode account show --config ~/mynode
    """


@account.command()
@node_command
def show(client: Client, as_json: bool) -> None:
    """Address, balance, what can be withdrawn, and the deposits in jobs.

    \b
    flnode account show --config ~/mynode
    """
    found = client.call("fl_account", schema.Account)
    if as_json:
        print_json(found)
        return
    rows = [
        ("address", found.address),
        ("balance", format_wei(found.balance_wei)),
        ("withdrawable", format_wei(found.withdrawable_wei)),
        ("nonce", str(found.nonce)),
        ("pending", f"{found.pending_transactions} transactions"),
    ]
    stdout().print(table(("", ""), rows))
    if found.deposits:
        deposits = [
            (
                each.job,
                "yes" if each.enrolled else "no",
                *map(format_wei, (each.free_wei, each.locked_wei, each.debt_wei)),
            )
            for each in found.deposits
        ]
        stdout().print()
        stdout().print(table((">JOB", "ENROLLED", ">FREE DEPOSIT", ">LOCKED STAKES", ">OWED TO SPONSOR"), deposits))


@account.command()
@node_command
def withdraw(client: Client, as_json: bool) -> None:
    """Fetch everything that the job contract owes this account.

    \b
    flnode account withdraw --config ~/mynode
    """
    done = client.call("fl_withdraw", schema.Submitted, {"wait_s": FINAL_WAIT_S}, wait_s=FINAL_WAIT_S)
    report(done, "withdrawn", as_json)


@account.command()
@click.argument("address")
@click.argument("amount")
@node_command
def send(client: Client, address: str, amount: str, as_json: bool) -> None:
    """Pay AMOUNT ("1.5 flt", "20 gwei") to ADDRESS.

    \b
    flnode account send 0x52908400098527886E0F7030069857D2E4169EE7 "1.5 flt"
    """
    value = parse_amount(amount, "AMOUNT")
    params = {"to": address, "value_wei": str(value), "wait_s": FINAL_WAIT_S}
    done = client.call("fl_send", schema.Submitted, params, wait_s=FINAL_WAIT_S)
    report(done, f"{format_wei(value)} sent", as_json)


def report(done: schema.Submitted, what: str, as_json: bool) -> None:
    """Say that a transaction of this node is final, or that it is still on its way."""
    if as_json:
        print_json(done)
    elif done.final:
        click.echo(f"{what} (transaction {done.transaction})")
    else:
        click.echo(f"not final after {FINAL_WAIT_S:.0f} s, still on its way (transaction {done.transaction})")
