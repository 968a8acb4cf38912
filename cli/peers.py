"""flnode peers"""

from __future__ import annotations

import click

from cli.client import Client
from cli.options import node_command
from cli.output import duration, print_json, short, stdout, table
from node.api import schema


@click.command()
@click.option("--known", is_flag=True, help="The peer book instead: where peers can be dialled, also those not here.")
@node_command
def peers(client: Client, known: bool, as_json: bool) -> None:
    """The peers that the node is connected to, or knows.

    FAULTS counts what a peer sent that was malformed or broke a limit since the node started. In the peer book, `met`
    is when a dial to the address last led to the peer; an address that a peer has only told is tried three times.

    \b
    flnode peers --config ~/mynode
    flnode peers --known
    flnode peers --json | jq '.[] | select(.validator != null) | .peer_id'
    """
    if known:
        _show_known(client.call("fl_knownPeers", list[schema.KnownPeer]), as_json)
        return
    found = client.call("fl_peers", list[schema.Peer])
    if as_json:
        print_json(found)
        return
    columns = ("PEER", "VALIDATOR", "ADDRESS", "DIRECTION", ">SINCE", ">IN", ">OUT", ">FAULTS")
    rows = [
        (
            peer.peer_id,
            _validator(peer),
            peer.address,
            peer.direction,
            duration(peer.connected_s),
            _size(peer.bytes_in),
            _size(peer.bytes_out),
            peer.refused,
        )
        for peer in found
    ]
    if rows:
        stdout().print(table(columns, rows))
    else:
        click.echo("no peers are connected")
    book = client.call("fl_knownPeers", list[schema.KnownPeer])
    met = sum(each.met_s is not None for each in book)
    click.echo(f"{len(rows)} connected; {met} met and {len(book) - met} told addresses in the peer book (--known)")


def _show_known(found: list[schema.KnownPeer], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    columns = ("PEER", "ADDRESS", "VALIDATOR", "CONNECTED", ">MET", ">TOLD", ">FAILURES", ">NEXT TRY")
    rows = [
        (
            each.peer_id,
            each.address,
            "yes" if each.validator else "",
            "yes" if each.connected else "",
            "never" if each.met_s is None else f"{duration(each.met_s)} ago",
            f"{duration(each.told_s)} ago",
            each.failures,
            "" if each.connected else duration(each.retry_in_s),
        )
        for each in found
    ]
    if rows:
        stdout().print(table(columns, rows))
    else:
        click.echo("no peers are known")


def _validator(peer: schema.Peer) -> str:
    if peer.account is None:
        return ""
    return short(peer.account) if peer.validator is None else f"{peer.validator} {short(peer.account)}"


def _size(count: int) -> str:
    if count < 1024:
        return f"{count} B"
    return f"{count / 1024:.1f} KiB" if count < 1 << 20 else f"{count / 2**20:.1f} MiB"
