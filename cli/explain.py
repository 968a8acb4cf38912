"""flnode job explain: a round told from finalised logs alone - who committed, who revealed what and when, how the vote
went, and why each was paid or not.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import click
import msgspec

from cli.amounts import format_wei
from cli.client import Client
from cli.errors import NodeError, UserError
from cli.options import node_command
from cli.output import print_json, short, stdout, table
from node.api import schema

# What becomes of a slot, by docs/PROTOCOL.md: the reason, and whether it earns and forfeits.
PAID = "revealed the majority's update"
MINORITY = "revealed another update than the majority"
AUDIT_PAID = "revealed the update that the audit found"
AUDIT_LOST = "revealed another update than the audit found"
WITHHELD = "committed, and did not reveal"
ABSENT = "did not commit"
VOID_REVEALED = "revealed; no update had a majority"
VOID_COMMITTED = "committed; too few did, and nobody was asked to reveal"
OPEN = "not decided yet"
_CAUSES = {
    str(cause): words
    for cause, words in enumerate(("drawn by lot", "{} appealed against the majority", "there was no majority"), 1)
}  # by number of the contract


class SlotStory(msgspec.Struct):
    """One drawn worker. Times are the blocks'; `settled` when the contract has booked the outcome."""

    worker: str
    committed_at: int | None = None
    revealed_at: int | None = None
    late: bool = False  # revealed after the round was settled
    update_digest: str | None = None
    outcome: str = "open"  # paid, refunded, forfeited
    reason: str = OPEN
    earned_wei: str = "0"
    forfeited_wei: str = "0"
    settled: bool = False


class AttemptStory(msgspec.Struct):
    """One attempt of a round. `asked` is whether reveals were opened; `winner` is set once a majority was reached."""

    job: int
    round: int
    attempt: int
    slots: list[SlotStory]
    votes: dict[str, int] = msgspec.field(default_factory=dict)
    asked: bool = False
    winner: str | None = None
    truth: str | None = None  # what an audit found
    phase: schema.Phase = "COMMIT"
    events: list[schema.JobEvent] = msgspec.field(default_factory=list)


@click.command()
@click.argument("job", metavar="ID", type=click.IntRange(min=1))
@click.argument("round_", metavar="ROUND", type=click.IntRange(min=1))
@node_command
def explain(client: Client, job: int, round_: int, as_json: bool) -> None:
    """Who did what in a round, how the vote went, and why each was paid or not; from final blocks alone.

    \b
    flnode job explain 1 3 --config ~/mynode
    """
    terms = client.call("fl_job", schema.JobDetail, {"id": job}).terms
    attempts = attempts_of(story(client, job), job, round_)
    if not attempts:
        raise UserError(f"round {round_} of job {job} has not been opened, or so long ago that this node forgot it")
    for each in attempts:
        judge(each, terms)
    if as_json:
        print_json(attempts)
        return
    for number, each in enumerate(attempts):
        if number:
            click.echo()
        tell(each)


def story(client: Client, job: int) -> Iterator[schema.JobEvent]:
    """All that the node remembers of a job."""
    after = 0
    while True:
        page = client.call("fl_jobEvents", schema.JobEvents, {"id": job, "after": after, "wait_s": 0.0})
        if not page.events:
            return
        yield from page.events
        if page.next <= after:
            raise NodeError(f"the node repeats itself after event {after} of job {job}")
        after = page.next


def attempts_of(events: Iterable[schema.JobEvent], job: int, round_: int) -> list[AttemptStory]:
    """A round's attempts, in order. Those whose opening is forgotten are left out."""
    found: dict[int, AttemptStory] = {}
    for event in events:
        if event.round != round_:
            continue
        if event.name == "RoundOpened":
            slots = [SlotStory(worker) for worker in event.detail["workers"].split(",")]
            found[event.attempt] = AttemptStory(job, round_, event.attempt, slots)
        if (attempt := found.get(event.attempt)) is not None:
            attempt.events.append(event)
            _fold(attempt, event)
    return [found[number] for number in sorted(found)]


def _fold(attempt: AttemptStory, event: schema.JobEvent) -> None:
    slot = next((each for each in attempt.slots if each.worker == event.worker), None)
    match event.name:
        case "Committed" if slot is not None:
            slot.committed_at = event.timestamp
        case "RevealOpened":
            attempt.asked, attempt.phase = True, "REVEAL"
        case "Revealed" if slot is not None:
            digest = event.detail["update_digest"]
            slot.revealed_at, slot.update_digest, slot.late = event.timestamp, digest, attempt.phase == "SETTLED"
            attempt.votes[digest] = attempt.votes.get(digest, 0) + 1
        case "MajorityReached":
            attempt.phase, attempt.winner = "REVEAL", event.detail["update_digest"]
        case "AuditOpened":
            attempt.phase, attempt.winner = "AUDIT", None
        case "Audited":
            attempt.truth = event.detail["update_digest"]
        case "RoundSettled":
            attempt.phase = "SETTLED"
        case "RoundVoided":
            attempt.phase = "VOID"
        case "RoundClosed":
            attempt.phase = "CLOSED"
        case "SeatSettled" if slot is not None:
            slot.settled = True


def judge(attempt: AttemptStory, terms: schema.Terms) -> None:
    """Say of each slot what becomes of it and why, as far as it is decided."""
    for slot in attempt.slots:
        slot.outcome, slot.reason = _verdict(attempt, slot)
        slot.earned_wei = terms.reward_wei if slot.outcome == "paid" else "0"
        slot.forfeited_wei = terms.stake_wei if slot.outcome == "forfeited" else "0"


def _verdict(attempt: AttemptStory, slot: SlotStory) -> tuple[str, str]:
    revealed, committed = slot.revealed_at is not None, slot.committed_at is not None
    if attempt.phase == "VOID":
        if revealed:
            return ("refunded", VOID_REVEALED) if attempt.truth is None else ("forfeited", AUDIT_LOST)
        if committed:
            return ("forfeited", WITHHELD) if attempt.asked else ("refunded", VOID_COMMITTED)
        return "forfeited", ABSENT
    if attempt.phase in ("SETTLED", "CLOSED") and revealed:
        if slot.update_digest == attempt.winner:
            return "paid", PAID if attempt.truth is None else AUDIT_PAID
        return "forfeited", MINORITY if attempt.truth is None else AUDIT_LOST
    if attempt.phase == "CLOSED" or (attempt.phase == "SETTLED" and not committed):
        return "forfeited", WITHHELD if committed else ABSENT
    return "open", OPEN


def tell(attempt: AttemptStory) -> None:
    """Print one attempt for people."""
    of = len(attempt.slots)
    click.echo(f"job {attempt.job}, round {attempt.round}, attempt {attempt.attempt}: {attempt.phase}\n")
    for event in attempt.events:
        if (text := _line(event, of)) is not None:
            clock = time.strftime("%H:%M:%S", time.localtime(event.timestamp))
            click.echo(f"{clock}  block {event.number}  {text}")
    click.echo("\n" + _vote(attempt) + "\n")
    rows = [(slot.worker, _outcome(slot), slot.reason + (", late" if slot.late else "")) for slot in attempt.slots]
    stdout().print(table(("WORKER", "OUTCOME", "WHY"), rows))


def _line(event: schema.JobEvent, of: int) -> str | None:
    who, detail = short(event.worker or ""), event.detail
    match event.name:
        case "RoundOpened":
            return f"opened for {of} workers, from {short(detail['base'])}"
        case "Committed":
            return f"{who} committed"
        case "RevealOpened":
            return f"{detail['commits']} of {of} have committed: reveals are open"
        case "Revealed":
            return f"{who} revealed {short(detail['update_digest'])}"
        case "MajorityReached":
            return f"{detail['votes']} of {of} slots revealed {short(detail['update_digest'])}: the majority"
        case "AuditOpened":
            return "to be audited: " + _CAUSES[detail["cause"]].format(short(detail["appellant"]))
        case "Audited":
            return f"the audit found {short(detail['update_digest'])}"
        case "AuditLapsed":
            return "nobody resolved the audit: the round goes on without"
        case "LastCall":
            return "the time was up, a last call was granted"
        case "RoundSettled":
            return f"settled: {short(detail['update_digest'])} is the next base"
        case "RoundVoided":
            return f"void: {detail['commits']} commits and {detail['reveals']} reveals of {of} slots gave no majority"
        case "RoundClosed":
            return "closed: no reveal is taken any more"
    return None  # a seat's booking is in the table


def _vote(attempt: AttemptStory) -> str:
    if not attempt.votes:
        return "nobody has revealed"
    ranked = sorted(attempt.votes.items(), key=lambda item: -item[1])
    counts = ", ".join(f"{short(digest)} by {votes}" for digest, votes in ranked)
    if attempt.truth is not None:
        return f"the vote: {counts}; the audit found {short(attempt.truth)}, and nothing else is paid"
    return f"the vote: {counts}; more than half of {len(attempt.slots)} slots wins"


def _outcome(slot: SlotStory) -> str:
    match slot.outcome:
        case "paid":
            text = f"paid {format_wei(slot.earned_wei)}"
        case "refunded":
            text = "keeps its stake"
        case "forfeited":
            text = f"forfeits {format_wei(slot.forfeited_wei)}"
        case _:
            return "open"
    return text if slot.settled else text + ", not booked yet"
