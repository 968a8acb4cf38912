"""Byzantine fault tolerant consensus: Simplex (Chan and Pass, TCC 2023, eprint 2023/463), on demand.

n validators, fewer than n/3 faulty; a certificate is a quorum, more than 2n/3, of equal votes. Time is cut into views
1, 2, ...; validators[v mod n] proposes in view v. A view ends when it is *notarised* (a quorum voted for one block of
it) or *skipped* (a quorum voted for its timeout).

    rule                  when                                                     then
    propose               the view is mine, all views since the newest notarised   BuildBlock -> notarise vote, Proposal
                          block are skipped, and work is pending; or nothing is,
                          but that block is not final one delay into the view
    vote to notarise      first proposal of my view; parent notarised, all views   CheckBlock -> notarise vote
                          between skipped; it executes
    leave the view        a certificate ends my view or a later one                enter the next, relay the certificate
    vote to finalise      a view is notarised, and I did not vote to skip it       finalise vote with the notarisation
    make final            a quorum voted to finalise                               Finalised: the block, its ancestors
    vote to skip          the view timer fires                                     timeout vote; say everything again
    join                  f + 1 others voted to skip my view                       timeout vote
    fetch                 a certified block's body, or an ancestor's, is missing   WantBlock, to a voter, then to all

Safety rests on two rules, both in `Votes.cast`: one vote of each kind in a view, never both finalise and timeout in a
view. For if a block of view v is final, a quorum voted to finalise v; so no other block of v is notarised, v is never
skipped, and every later block must descend from it. A node remembers its votes over a restart for the same reason; one
that has lost them keeps silent until it is past every view in which it may have voted (chain/consensus_floor.py). It
remembers certificates, too: its later votes rest on them, and a signer that is faulty may never sign again.

The view timer, three delays, runs only while there is *work*: something is pending, a proposal is open, the newest
notarised block is not final, or a body is missing. So an idle chain whose head is final makes no blocks and sends
nothing but a Status every ten delays. Because f faulty validators must not be able to spin the views, a single timeout
vote wakes nobody. The estimate of one delay doubles after a view that timed out here and halves whenever blocks become
final, within bounds.

What the shell owes the machine, and what memory it takes, is written in chain/consensus_types.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from chain import consensus_speech as speech
from chain.certificate import quorum as least_quorum
from chain.consensus_bodies import Bodies
from chain.consensus_floor import Floor
from chain.consensus_timer import Timer
from chain.consensus_types import (
    BuildBlock,
    Built,
    Certificates,
    CheckBlock,
    Checked,
    Connected,
    Effect,
    Event,
    Finalised,
    ForkedFinality,
    HaveBlock,
    Message,
    PersistCertificate,
    PersistFloor,
    PersistVote,
    Proposal,
    Received,
    Send,
    Sign,
    Snapshot,
    Started,
    Status,
    Ticked,
    VoteMessage,
    WakeAt,
    WantBlock,
    WorkChanged,
)
from chain.consensus_views import Views
from chain.consensus_votes import Votes
from chain.types import FINALISE, NO_DIGEST, NOTARISE, TIMEOUT, Block, Certificate, Vote, VoteKind

__all__ = [
    "BuildBlock", "Built", "Certificates", "CheckBlock", "Checked", "Connected", "Effect", "Event", "Finalised",
    "ForkedFinality", "HaveBlock", "Message", "PersistCertificate", "PersistFloor", "PersistVote", "Proposal",
    "Received", "Send", "Simplex", "Snapshot", "Started", "Status", "Ticked", "VoteMessage", "WakeAt", "WantBlock",
    "WorkChanged",
]  # fmt: skip


class Simplex:
    """One validator's consensus of one epoch: `step(event, now)` returns the effects, in the order to carry them out.

    Args:
        validators: n >= 1; `me`: this validator's index, None to follow without voting.
        delta_s: least estimate of one network delay; three must exceed the time to execute a full block.
        final: the newest final block; its view counts as 0 if it belongs to an earlier epoch.
        sign: signs (epoch, view, kind, digest) with this validator's key.
        votes, blocks, certificates: what this machine asked to keep, above `final`, in all runs before this one.
        quorum: votes in a certificate; may be raised above the default of floor(2n/3) + 1, never lowered.
        vote_floor: what PersistFloor asked to keep, if ever; None if the votes of earlier runs are lost.
    """

    def __init__(
        self,
        validators: int,
        me: int | None,
        epoch: int,
        delta_s: float,
        final: Block,
        sign: Sign,
        final_certificate: Certificate | None = None,
        votes: Iterable[Vote] = (),
        blocks: Iterable[Block] = (),
        certificates: Iterable[Certificate] = (),
        quorum: int | None = None,
        vote_floor: int | None = 0,
    ) -> None:
        if me is not None and not 0 <= me < validators:
            raise ValueError(f"validator {me} of {validators}")
        quorum = least_quorum(validators) if quorum is None else quorum
        if not least_quorum(validators) <= quorum <= validators:
            raise ValueError(f"quorum {quorum} of {validators} validators: {least_quorum(validators)} is the least")
        self.validators, self.me, self.epoch = validators, me, epoch
        self.view, self.pending = 0, False
        self._delta_s = delta_s
        self._some_honest = (validators - 1) // 3 + 1  # f + 1
        self._views = Views(epoch, final, final_certificate)
        self._floor = Floor(epoch, validators, quorum, vote_floor)
        self._votes = Votes(epoch, validators, me, quorum, sign, self.final_view, self._floor)
        above = [block for block in blocks if block.epoch == epoch and block.view > self.final_view]
        self._bodies = Bodies(final, above, self._some_honest)
        self._timer = Timer(delta_s)
        self._relayed: set[int] = set()  # notarised views whose certificate was passed on
        self._answered: dict[int, float] = {}  # when each validator's Status was last answered
        self._proposal: Block | None = None  # of this view, the first one seen
        self._building: BuildBlock | None = None  # in this view, unanswered
        self._declined = False  # in this view even an empty block was not to be had
        self._effects: list[Effect] = []
        self._now = 0.0
        self._votes.remember(votes)
        for certificate in certificates:
            self._views.learn(certificate)
        self._enter(max((view for view, _ in self._votes.mine), default=self.final_view + 1))
        for vote in self._votes.mine.values():
            self._count(vote)

    # ---- what the shell may read ------------------------------------------------------------------------------------
    @property
    def final(self) -> Block:
        return self._views.final

    @property
    def final_certificate(self) -> Certificate | None:
        return self._views.certificate

    @property
    def final_view(self) -> int:
        return self._views.final_view

    @property
    def quorum(self) -> int:
        return self._votes.quorum

    @property
    def tip(self) -> Block:
        """The newest notarised block that was executed here, or the final one."""
        notarised = self._views.notarised
        found = (notarised[view].digest for view in sorted(notarised, reverse=True))
        return self._bodies.blocks[next(filter(self._bodies.executed, found), self.final.digest)]

    @property
    def blocks(self) -> Mapping[bytes, Block]:
        """The bodies that are here, by digest: the final block and those above it."""
        return MappingProxyType(self._bodies.blocks)

    def known(self, digest: bytes) -> Block | None:
        return self._bodies.blocks.get(digest)

    @property
    def delay_s(self) -> float:
        """The present estimate of one network delay."""
        return self._timer.delay_s

    @property
    def evidence(self) -> tuple[tuple[Vote, Vote], ...]:
        return tuple(self._votes.evidence.values())

    @property
    def remembers(self) -> bool:
        """Whether it is known in which views this validator has voted: before, it casts no vote."""
        return self._floor.view is not None

    def status(self) -> Status:
        """What to tell a peer on connecting."""
        return Status(self._views.unproven(), self.final_view, self.epoch, self.view)

    def certificates_above(self, view: int, final_view: int) -> tuple[Certificate, ...]:
        """What takes a peer with this Status forward; a bounded part of it, if there is much."""
        return self._views.above(view, final_view)

    def snapshot(self) -> Snapshot:
        voted = {voter for kind in (NOTARISE, TIMEOUT) for voter in self._votes.voters(self.view, kind)}
        silent = tuple(index for index in range(self.validators) if index not in voted)
        return Snapshot(
            self.epoch, self.view, self.final_view, self.proposer(self.view), self.tip, self.final, self.pending,
            silent if self._timer.deadline is not None or voted else (), self._bodies.missing, self._bodies.refused,
            self.delay_s, self._timer.deadline, self.evidence,
        )  # fmt: skip

    def proposer(self, view: int) -> int:
        return view % self.validators

    # ---- events -----------------------------------------------------------------------------------------------------
    def step(self, event: Event, now: float) -> list[Effect]:
        """Take one event at a monotonic time. Raises ForkedFinality if too many validators are faulty."""
        self._now = now
        match event:
            case Started():
                self._timer.start(now)
                self._say_again()
            case Ticked():
                self._tick()
            case WorkChanged(pending):
                self.pending = pending
                self._declined = self._declined and not pending
            case Built(view, block):
                self._built(view, block)
            case Checked(digest, ok):
                self._bodies.checked(digest, ok)
            case Connected(validator):
                self._send(validator, self.status(), *self._open_votes(self.view))
            case Received(sender, message):
                self._receive(sender, message)
        self._settle()
        effects, self._effects = self._effects, []
        return effects

    def _tick(self) -> None:
        timed_out, beat = self._timer.ticked(self._now)
        if timed_out:
            self._vote(self.view, TIMEOUT, NO_DIGEST)
            self._say_again()
        elif beat:
            # Idle, but a vote of ours may be all that somebody else lacks.
            self._send(None, self.status(), *self._open_votes(self.view))

    def _built(self, view: int, block: Block | None) -> None:
        if view != self.view or self._building is None:
            return
        asked, self._building = self._building, None
        if block is None:
            self.pending, self._declined = False, asked.empty
        elif self._votes.may_vote(view) and (view, NOTARISE) not in self._votes.mine:
            assert (block.epoch, block.view, block.parent) == (self.epoch, view, asked.parent.digest)
            self._bodies.add_own(block)
            self._proposal = block
            vote = self._vote(view, NOTARISE, block.digest, block)
            assert vote is not None
            self._send(None, *speech.proposal(block, vote, self._views))

    def _receive(self, sender: int | None, message: Message) -> None:
        match message:
            case Proposal(block, vote, certificates):
                self._learn(certificates)
                self._leave_view()  # an honest proposal brings what leads to its view
                self._take_proposal(sender, block, vote)
                self._count(vote)
            case VoteMessage(vote, certificate):
                self._learn(() if certificate is None else (certificate,))
                self._count(vote)
            case Certificates(certificates):
                self._learn(certificates)
            case Status() if sender is not None and message.epoch == self.epoch:
                self._floor.entered(sender, message.entered)
                self._answer(sender, message)
            case WantBlock(digest) if sender is not None:
                if (found := self.known(digest)) is not None:
                    self._send(sender, HaveBlock(found))
            case HaveBlock(block):
                if block.epoch == self.epoch and self._bodies.wants(block.digest, sender):
                    self._keep(block, sender)

    def _take_proposal(self, sender: int | None, block: Block, vote: Vote) -> None:
        """Keep the first proposal of this view, or any body that is being looked for."""
        named = (vote.epoch, vote.view, vote.kind, vote.digest, vote.voter)
        if named != (self.epoch, block.view, NOTARISE, block.digest, self.proposer(block.view)):
            return
        if block.epoch != self.epoch or block.view <= self.final_view:
            return
        if block.view == self.view and self._proposal is None and (self.view, NOTARISE) not in self._votes.mine:
            self._proposal = block
            self._keep(block, sender)
        elif self._bodies.wants(block.digest, sender):
            self._keep(block, sender)

    def _answer(self, asker: int, status: Status) -> None:
        if status.final_view >= self.final_view and status.view >= self._views.unproven():
            return
        if asker not in self._answered or self._now >= self._answered[asker] + self._delta_s:
            self._answered[asker] = self._now
            self._send(asker, *speech.certificates(self.certificates_above(status.view, status.final_view)))

    # ---- votes and certificates -------------------------------------------------------------------------------------
    def _vote(self, view: int, kind: VoteKind, digest: bytes, block: Block | None = None) -> Vote | None:
        """Cast a vote, unless the rules of `Votes.cast` forbid it: on disk first, then counted, then sent."""
        vote = self._votes.cast(view, kind, digest)
        if vote is not None:
            self._effects.append(PersistVote(vote, block))
            self._count(vote)
        return vote

    def _count(self, vote: Vote) -> None:
        certificate = self._votes.count(vote, self.view)
        self._learn(() if certificate is None else (certificate,))

    def _learn(self, certificates: Iterable[Certificate]) -> None:
        for certificate in certificates:
            if self._views.learn(certificate) and self.me is not None:
                self._effects.append(PersistCertificate(certificate))

    # ---- bodies -----------------------------------------------------------------------------------------------------
    def _keep(self, block: Block, source: int | None) -> None:
        self._bodies.add(block, source)
        self._bodies.evict({block.digest, *(certificate.digest for certificate in self._views.notarised.values())})

    def _executed(self, digest: bytes, notarised: bool, voters: Iterable[int] = ()) -> bool:
        """True once the block and its ancestors, which are notarised, ran here; else takes the next step towards it."""
        match self._bodies.lacking(digest):
            case None:
                return True
            case bytes(missing):
                self._want(missing, voters)
            case Block() as block:
                if block.height <= self.final.height:
                    raise ForkedFinality(self.final, block)
                if self._bodies.may_check(block, notarised := notarised or block.digest != digest):
                    self._effects.append(CheckBlock(block, notarised))
        return False

    def _want(self, digest: bytes, voters: Iterable[int]) -> None:
        """Ask one voter for a missing body (which one depends on who asks), and everybody if that was in vain."""
        asked = self._bodies.want(digest, self._now, self.delay_s)
        if asked is None:
            return
        others = [voter for voter in voters if voter != self.me]
        to = others[(self.me or 0) % len(others)] if others and asked == 0 else None
        self._send(to, WantBlock(digest))

    # ---- rules, tried after every event until none of them applies --------------------------------------------------
    def _settle(self) -> None:
        if self._floor.find(self._views.ended) and self._floor.view is not None:
            self._effects.append(PersistFloor(self._floor.view))
        while (
            self._make_final()
            or self._leave_view()
            or self._vote_to_finalise()
            or self._vote_to_notarise()
            or self._join_timeout()
        ):
            pass
        self._fetch_newest()
        self._propose()
        self._bodies.settle_wants()
        self._schedule()

    def _make_final(self) -> bool:
        certificate = self._views.finality
        if certificate is None:
            return False
        if not self._executed(certificate.digest, True, [voter for voter, _ in certificate.signatures]):
            return False
        chain: list[Block] = []
        digest = certificate.digest
        while digest != self.final.digest:
            chain.append(self._bodies.blocks[digest])
            digest = chain[-1].parent
        self._views.finalise(chain[0], certificate)
        self._bodies.finalise(chain[0])
        self._votes.finalise(self.final_view)
        self._relayed = {view for view in self._relayed if view > self.final_view}
        self._timer.finalised()
        self._effects.append(Finalised(tuple(reversed(chain)), certificate))
        return True

    def _leave_view(self) -> bool:
        ended = self._views.ended
        if ended < self.view:
            return False
        self._enter(ended + 1)
        if self.me is not None and ended in self._views.skipped and ended not in self._views.notarised:
            self._send(None, Certificates((self._views.skipped[ended],)))
        if self._views.unproven() < self.view:
            self._send(None, self.status())
        return True

    def _enter(self, view: int) -> None:
        self._timer.enter_view(self._now, timed_out=(self.view, TIMEOUT) in self._votes.mine)
        self.view = view
        self._proposal, self._building, self._declined = None, None, False

    def _vote_to_finalise(self) -> bool:
        fresh = [] if self.me is None else sorted(self._views.notarised.keys() - self._relayed)
        for view in fresh:
            certificate = self._views.notarised[view]
            vote = self._vote(view, FINALISE, certificate.digest)
            self._send(None, Certificates((certificate,)) if vote is None else VoteMessage(vote, certificate))
        self._relayed.update(fresh)
        return bool(fresh)

    def _vote_to_notarise(self) -> bool:
        block = self._proposal
        if block is None or not self._votes.may_vote(self.view) or (self.view, NOTARISE) in self._votes.mine:
            return False
        parent_view = self._views.notarised_in(block.parent)
        if parent_view is None or not self._views.all_skipped(parent_view, self.view):
            return False
        if not self._executed(block.parent, True):
            return False
        if block.height != self._bodies.blocks[block.parent].height + 1 or not self._executed(block.digest, False):
            return False
        vote = self._vote(self.view, NOTARISE, block.digest, block)
        assert vote is not None
        self._send(None, VoteMessage(vote))
        return True

    def _join_timeout(self) -> bool:
        if len(self._votes.voters(self.view, TIMEOUT) - {self.me}) < self._some_honest:
            return False
        vote = self._vote(self.view, TIMEOUT, NO_DIGEST)
        if vote is not None:
            self._send(None, VoteMessage(vote))
        return vote is not None

    def _fetch_newest(self) -> None:
        view, digest = self._views.newest()
        voters = self._views.notarised[view].signatures if view in self._views.notarised else ()
        self._executed(digest, True, [voter for voter, _ in voters])

    def _propose(self) -> None:
        if self.proposer(self.view) != self.me or (self.view, NOTARISE) in self._votes.mine:
            return
        if not self._votes.may_vote(self.view):
            return
        view, digest = self._views.newest()
        if not self._views.all_skipped(view, self.view) or not self._bodies.executed(digest):
            return
        wanted = self.pending or (digest != self.final.digest and self._timer.lingered(self._now))
        if wanted and self._building is None and not self._declined:
            self._building = BuildBlock(self.view, self._bodies.blocks[digest], empty=not self.pending)
            self._effects.append(self._building)

    def _schedule(self) -> None:
        unfinished = self._views.finality is not None or self._views.newest()[1] != self.final.digest
        proposed = self._proposal is not None or (self.view, NOTARISE) in self._votes.mine
        work = self.pending or proposed or unfinished or self._bodies.missing > 0
        self._timer.run(self._now, work and self.me is not None)
        linger = unfinished and self.proposer(self.view) == self.me and not self._timer.lingered(self._now)
        if (at := self._timer.wake_at(linger, self._bodies.retry_at(self.delay_s))) is not None:
            self._effects.append(WakeAt(at))

    # ---- saying things ----------------------------------------------------------------------------------------------
    def _send(self, to: int | None, *messages: Message) -> None:
        if self.validators > 1 or self.me is None:
            self._effects += (Send(to, message) for message in messages)

    def _say_again(self) -> None:
        """Everything that may have been lost: where we are, certificates, and votes that are not part of one yet."""
        self._send(None, self.status())
        if self.me is not None:
            self._send(None, *speech.certificates(self.certificates_above(self.final_view + 1, self.final_view)))
            self._send(None, *self._open_votes(self.final_view + 1))

    def _open_votes(self, from_view: int) -> list[Message]:
        own = {digest: block for digest, block in self.blocks.items() if self.proposer(block.view) == self.me}
        return speech.open_votes(self._votes.mine, own, self._views, from_view)
