"""What a final transaction of this node brought about, read from its logs. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from chain.contracts import bindings as b
from chain.types import Log
from node.api import schema


def submitted(transaction: bytes, logs: Iterable[Log]) -> schema.Submitted:
    """The answer about a transaction that is final and succeeded."""
    job = proposal = epoch = None
    for log in logs:
        match b.decode(log):
            case b.JobPosted(job=number):
                job = number
            case b.Approved(id=number):
                proposal = number
            case b.ValidatorsChanged(epoch=number):
                epoch = number
    return schema.Submitted("0x" + transaction.hex(), True, job, proposal, epoch)
