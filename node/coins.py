"""What a worker without enough coins waits for, in words. Pure reads."""

from __future__ import annotations

from collections.abc import Container

from chain.chain import Chain
from chain.contracts import bindings as b
from node.account import Account
from node.config import Config
from node.jobs import Jobs
from node.roles.newcomer import NewcomerState


def lacking(
    config: Config,
    chain: Chain,
    jobs: Jobs,
    account: Account,
    newcomer: NewcomerState,
    declined: Container[int],
) -> str | None:
    """None if the account has what the work that is there asks for, or has work.

    Args:
        declined: jobs that this node will not work on.
    """
    if not config.has_role("worker"):
        return None
    joining = chain.network.joining
    own, fees = chain.balance(account.address), b.OPENING_GAS * account.fee
    address = "0x" + account.address.hex()
    if own < fees:
        if joining.faucet and config.worker.ask_faucet:
            said = f" ({newcomer.said})" if newcomer.said else ""
            return f"the faucet: this account has no coins for fees, and asks validators for a grant{said}"
        return f"coins: this account has {own} wei, and fees need {fees}; have somebody pay {address}"
    open_jobs = [job for job in jobs.by_id.values() if job.ended is None and not job.cancelled]
    if any(account.address in job.records and job.records[account.address].enrolled for job in open_jobs):
        return None
    for job in open_jobs:
        deposit = job.posted.terms.stake * config.worker.deposit_stakes
        open_to_us = account.address not in job.records and job.job not in declined
        wanted = open_to_us and config.worker.enrol and deposit <= config.worker.deposit_gwei_max * 10**9
        if not wanted or own >= deposit + fees or job.sponsorship(account.address).offered:
            continue
        lacks = f"the deposit in job {job.job} is {deposit} wei, this account has {own}"
        if joining.sponsors:
            return f"a sponsor: {lacks}"
        return f"coins: {lacks}; have somebody pay {address}"
    return None
