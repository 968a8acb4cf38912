"""flnode job indices: which samples a round is trained on."""

from __future__ import annotations

from typing import Final

import click

from cli.blob import fetch
from cli.client import Client
from cli.errors import NodeError
from cli.options import node_command
from cli.output import print_json
from learner import assigned, batch_list
from learner.errors import InvalidBatches
from node.api import schema

WAIT_S: Final = 30.0  # for the node to have the job's manifest, dataset and list from its peers


@click.command()
@click.argument("job", metavar="ID", type=click.IntRange(min=1))
@click.argument("number", metavar="ROUND", type=click.IntRange(min=1))
@click.option("--attempt", type=click.IntRange(1, schema.ATTEMPTS_MAX), default=1, show_default=True)
@node_command
def indices(client: Client, job: int, number: int, attempt: int, as_json: bool) -> None:
    """Print the samples of each step of a round: a line for each batch, as a job file's `batches` may have them.

    They follow from the chain's seed, or from the job's own list. Sample 0 is the dataset's first.

    \b
    flnode job indices 1 3 --config ~/server
    flnode job indices 1 3 --attempt 2 --json
    """
    params = {"id": job, "round": number, "attempt": attempt}
    found = client.call("fl_roundBatches", schema.RoundBatches, params, wait_s=WAIT_S)
    batches = _batches(client, found)
    if as_json:
        print_json({"batch_seed": found.batch_seed, "listed": found.listed, "batches": batches})
        return
    for batch in batches:
        click.echo(",".join(map(str, batch)))


def _batches(client: Client, found: schema.RoundBatches) -> list[list[int]]:
    """Those of each step."""
    if found.listed is None:
        if found.train is None or found.train < found.batch_size:
            raise NodeError(f"{client.endpoint} does not say from how many samples the batches are drawn")
        seed = bytes.fromhex(found.batch_seed[2:])
        return list(assigned.batches(seed, found.train, found.batch_size, found.steps))
    content = fetch(client, found.listed.digest, found.listed.size)
    try:
        row = batch_list.row(content, found.steps, found.batch_size, found.round, found.attempt)
        listed = batch_list.indices_of(row, found.steps, found.batch_size, batch_list.INDEX_MAX + 1)
    except InvalidBatches as error:
        raise NodeError(str(error)) from None
    return [list(listed[start : start + found.batch_size]) for start in range(0, len(listed), found.batch_size)]
