# pragma version 0.4.3
# pragma evm-version cancun
# pragma optimize codesize
"""
@title Replicated jobs
@license Apache-2.0
@notice Several workers compute the same update of a model; the digest that more than half of the drawn slots reveal
        wins, its revealers are paid, everybody else in the round forfeits a stake. All replicated jobs live here, by
        number.

        A round is drawn, committed to, revealed and settled:

            COMMIT --last slot commits, or close with a possible majority--> REVEAL --finalise--> SETTLED --> CLOSED
               \--close without--> VOID <--close without a winner------------/  \<-----> AUDIT

        Where the terms say so, a round is audited before it is paid: drawn by lot when it has a majority, on a bonded
        appeal against that majority, or when it has none at the end of its reveals. Validators that can train compute
        it again; only their digest, if any, is paid then, however many revealed it. An attempt is audited once at
        most; an audit that nobody resolves lapses, and is as if it had not been.

        No deadline acts by itself. After one, anyone calls `expire`, which grants a last call from its own block, and
        after that `close`. A settled round takes late reveals until it is closed, beside the commits of the next round.
        A void round is opened again with new slots and the next attempt number, or ends the job as failed.

@dev A genesis contract: the network file places its code, no constructor runs. Nothing here costs more when more
     workers are enrolled: votes are counted as they come, k slots are drawn by k swaps, seats are settled one by one
     from a queue of each worker.

     Every `Revealed` and every `Audited` log is a claim about blobs, which the EVM cannot see: a block that holds one is
     valid only with a quorum of attestations beside it. Hence nothing else may emit these logs, and nothing may emit
     them without the checks of `reveal` and `resolve`.

     Money, to the wei: balance == escrowed + reserved + free + locked + owed + offered (`books`); what was burned has
     left. Reserved are the rewards of slots, the audit fees of rounds that are not decided, and bonds of open appeals.
     What a worker owes its sponsor is no money: it says whose the worker's next money is.
"""

# --- imports and interfaces ---

import events
import mask as mask_rules
import terms as terms_rules


interface JobFinder:
    def list_job(job: uint256): nonpayable
    def delist_job(job: uint256): nonpayable


# --- constants ---

FINDER: constant(address) = 0x0000000000000000000000000000000000000F01

# the largest state that a learner takes; what is larger, no worker could make
UPDATE_SIZE_MAX: constant(uint256) = 64 * 2**20

# seats settled on the way of other calls, and by calls that are made to settle
SETTLE_BESIDE: constant(uint256) = 2
SETTLE_MAX: constant(uint256) = 8

# looks at enrolled workers in one drawing: 31 slots, and 16 evictions
DRAWS_MAX: constant(uint256) = terms_rules.SLOTS_MAX + 16

# how far back BLOCKHASH reaches
HASHES_MAX: constant(uint256) = 256

# phases of a round; 0 means that there is no such round
COMMIT: constant(uint256) = 1
REVEAL: constant(uint256) = 2
AUDIT: constant(uint256) = 3
SETTLED: constant(uint256) = 4
VOID: constant(uint256) = 5
CLOSED: constant(uint256) = 6

# states of a job; 0 means that there is no such job
WAITING: constant(uint256) = 1
RUNNING: constant(uint256) = 2
ENDED: constant(uint256) = 3

# why a job ended
FINISHED: constant(uint256) = 1
STOPPED: constant(uint256) = 2
CANCELLED: constant(uint256) = 3
DEADLINE: constant(uint256) = 4
FAILED: constant(uint256) = 5

# states of a seat; 0 means that the worker was not drawn; ABSENT is settled too, of one that did not commit
DRAWN: constant(uint256) = 1
COMMITTED: constant(uint256) = 2
REVEALED: constant(uint256) = 3
SEAT_SETTLED: constant(uint256) = 4
ABSENT: constant(uint256) = 5


# of an attempt's audit; 0 means that there was none
OPEN: constant(uint256) = 1
RESOLVED: constant(uint256) = 2
LAPSED: constant(uint256) = 3

# why an audit was opened
DRAWN_BY_LOT: constant(uint256) = 1
APPEALED: constant(uint256) = 2
UNDECIDED: constant(uint256) = 3


# --- structs ---

struct Job:
    owner: address
    state: uint256
    cancelled: bool  # ends with the open round
    manifest: bytes32
    update_size: uint256  # bytes of every update
    seed: bytes32  # of every batch seed
    base: bytes32  # what the open or next round starts from: the last winner
    entropy: bytes32  # what the next slots are drawn from
    escrow: uint256  # wei promised to rounds that are not open yet
    settled: uint256  # rounds settled; the open or next round is settled + 1
    attempt: uint256  # of the open or next round
    terms: terms_rules.Terms


struct Round:
    phase: uint256
    slots: uint256  # really drawn
    commits: uint256
    reveals: uint256
    base: bytes32
    winner: bytes32  # meaningful once grace_until is set, or of an audit once it is resolved
    deadline: uint256  # of the commits, then of the reveals, then of the audit
    last_call_until: uint256  # 0 until expire, anew in each phase
    grace_until: uint256  # 0 until there is a winner; appeals end one grace before
    opened_in: uint256  # block that opened the reveals; 0 if no audit is drawn by lot
    seed: bytes32  # that block's hash, from the first reveal on
    audit: uint256
    appellant: address
    fee: uint256  # wei, of an audit that may still come


struct Seat:
    state: uint256
    ciphertext: bytes32
    r_hash: bytes32
    s_hash: bytes32
    update: bytes32


struct Enrolment:
    position: uint256  # 1 + place in the array of enrolled workers; 0 means not enrolled, then free is 0
    free: uint256  # wei of deposit that is not locked
    head: uint256  # unsettled seats are head .. tail - 1 of the worker's queue
    tail: uint256
    since: uint256  # tail when it enrolled


struct Sponsorship:
    wanted: bool  # the worker has asked, and nobody has offered since
    sponsor: address
    offered: uint256  # wei that wait for the worker to enrol
    owed: uint256  # wei that the worker has taken as deposit and not repaid


struct Books:
    escrowed: uint256
    reserved: uint256
    free: uint256
    locked: uint256
    owed: uint256
    offered: uint256
    burned: uint256


# --- storage ---

# jobs are numbered from 1
jobs_count: public(uint256)
jobs: HashMap[uint256, Job]

# rounds, seats and votes are found by the hash of job, round and attempt
rounds: HashMap[bytes32, Round]
seats: HashMap[bytes32, HashMap[address, Seat]]
votes: HashMap[bytes32, HashMap[bytes32, uint256]]

# job -> its enrolled workers, at 0 .. enrolled_count - 1, in no particular order
enrolled_count: public(HashMap[uint256, uint256])
enrolled: HashMap[uint256, HashMap[uint256, address]]
enrolments: HashMap[uint256, HashMap[address, Enrolment]]

# job -> worker -> place in the queue -> round * 256 + attempt of a seat
queues: HashMap[uint256, HashMap[address, HashMap[uint256, uint256]]]

# account -> wei that may be withdrawn, over all jobs
balance_of: public(HashMap[address, uint256])

books: public(Books)

# whether workers may ask for sponsors; the network file says it, nothing changes it
sponsors: public(bool)

# job -> worker -> who puts its deposit, and what it owes for that
sponsorships: HashMap[uint256, HashMap[address, Sponsorship]]


# --- external functions, for owners ---

@external
@payable
def post(manifest: bytes32, base: bytes32, update_size: uint256, seed: bytes32, terms: terms_rules.Terms) -> uint256:
    """
    @notice Post a job and escrow the rewards of all its rounds. The caller owns it.
    @dev Reverts unless the value is exactly (reward * slots + audit_fee) * rounds_max and all terms are within their
         limits.
    @param manifest Digest of the job's manifest.
    @param base Digest of the state that round 1 starts from.
    @param update_size Bytes of that state and of every update.
    @param seed Where the batch seeds come from, with round and attempt and nothing else.
    @param terms See terms.vy.
    @return Number of the job.
    """
    terms_rules._check(terms)
    assert 1 <= update_size and update_size <= UPDATE_SIZE_MAX, "update size out of range"
    self.jobs_count += 1
    job: uint256 = self.jobs_count
    self.jobs[job].owner = msg.sender
    self.jobs[job].state = WAITING
    self.jobs[job].manifest = manifest
    self.jobs[job].update_size = update_size
    self.jobs[job].seed = seed
    self.jobs[job].base = base
    self.jobs[job].attempt = 1
    self.jobs[job].terms = terms
    self._take_escrow(job, terms.rounds_max)
    log events.JobPosted(
        job=job,
        owner=msg.sender,
        manifest=manifest,
        base=base,
        update_size=update_size,
        seed=seed,
        reward=terms.reward,
        stake=terms.stake,
        slots=terms.slots,
        workers_min=terms.workers_min,
        rounds_max=terms.rounds_max,
        attempts_max=terms.attempts_max,
        commit_window_s=terms.commit_window_s,
        reveal_window_s=terms.reveal_window_s,
        last_call_s=terms.last_call_s,
        grace_s=terms.grace_s,
        deadline=terms.deadline,
        auto_finalise=terms.auto_finalise,
        audit_ppm=terms.audit_ppm,
        audit_window_s=terms.audit_window_s,
        audit_fee=terms.audit_fee,
        appeal_window_s=terms.appeal_window_s,
        appeal_bond=terms.appeal_bond,
    )
    extcall JobFinder(FINDER).list_job(job)
    return job


@external
@payable
def top_up(job: uint256, rounds: uint256):
    """
    @notice Promise and escrow more rounds. Anyone may, the owner gets back what is not spent.
    @dev Reverts unless the value is exactly (reward * slots + audit_fee) * rounds.
    @param job Number of a job that has not ended and is not cancelled.
    @param rounds Rounds to add.
    """
    self._require_open(job)
    rounds_max: uint256 = self.jobs[job].terms.rounds_max
    assert 1 <= rounds and rounds <= terms_rules.ROUNDS_MAX - rounds_max, "rounds out of range"
    self._take_escrow(job, rounds)
    self.jobs[job].terms.rounds_max = rounds_max + rounds
    log events.JobToppedUp(job=job, rounds_max=rounds_max + rounds)


@external
def cancel(job: uint256):
    """
    @notice End a job: at once if no round is open, else as soon as the open round is settled or void.
    @dev Reverts unless the caller owns the job, and if it has ended or is cancelled already.
    @param job Number of the job.
    """
    self._require_open(job)
    assert msg.sender == self.jobs[job].owner, "only the owner may cancel"
    self.jobs[job].cancelled = True
    log events.JobCancelled(job=job)
    if self.jobs[job].state == WAITING:
        self._end(job, CANCELLED)


# --- external functions, for workers ---

@external
@payable
def enrol(job: uint256):
    """
    @notice Join the workers that slots are drawn from, or add to the deposit. Opens a round if the job waits for
            workers; one that is enrolled already may call for that with no value.
    @dev Reverts if the free deposit is then below one stake. A worker whose free deposit is below one stake when drawn
         is evicted: deposit a stake for every round that may be unsettled at a time. What a sponsor
         offers is taken. Reverts while the next draw can be foretold.
    @param job Number of a job that has not ended and is not cancelled, before its deadline.
    """
    self._require_open(job)
    assert block.timestamp < self.jobs[job].terms.deadline, "deadline has passed"
    self._require_draw_unknown(job)
    if self.enrolments[job][msg.sender].position == 0:
        self.enrolled[job][self.enrolled_count[job]] = msg.sender
        self.enrolled_count[job] += 1
        self.enrolments[job][msg.sender].position = self.enrolled_count[job]
        self.enrolments[job][msg.sender].since = self.enrolments[job][msg.sender].tail
    self._settle_seats(job, msg.sender, SETTLE_BESIDE)
    added: uint256 = msg.value + self._take_offer(job, msg.sender)
    if added > msg.value:
        self.sponsorships[job][msg.sender].owed = added - msg.value
    free: uint256 = self.enrolments[job][msg.sender].free + added
    assert free >= self.jobs[job].terms.stake, "deposit below one stake"
    self.enrolments[job][msg.sender].free = free
    self.books.free += added
    log events.Enrolled(job=job, worker=msg.sender, free=free)
    if self.jobs[job].state == WAITING and self.enrolled_count[job] >= self.jobs[job].terms.workers_min:
        self._open_round(job)


@external
def leave(job: uint256):
    """
    @notice Leave the workers that slots are drawn from. The free deposit may be withdrawn at once, locked stakes as
            their seats settle. Slots already held stay held.
    @dev Reverts unless the caller is enrolled, and while the next draw can be foretold.
    @param job Number of the job.
    """
    assert self.enrolments[job][msg.sender].position > 0, "not enrolled"
    self._require_draw_unknown(job)
    self._settle_seats(job, msg.sender, SETTLE_BESIDE)
    self._leave(job, msg.sender)


@external
def commit(job: uint256, round: uint256, attempt: uint256, ciphertext: bytes32, r_hash: bytes32, s_hash: bytes32):
    """
    @notice Commit to an update, masked. The last slot to commit opens the reveals.
    @dev Reverts unless the round takes commits and the caller holds a slot in it that has not committed.
    @param job Number of the job.
    @param round Number of the round.
    @param attempt Number of the attempt.
    @param ciphertext Blob digest of the masked update.
    @param r_hash keccak256(R).
    @param s_hash keccak256(S), S the mask.
    """
    key: bytes32 = self._key(job, round, attempt)
    assert self.rounds[key].phase == COMMIT, "round takes no commits"
    state: uint256 = self.seats[key][msg.sender].state
    assert state > 0, "caller holds no slot"
    assert state == DRAWN, "already committed"
    self.seats[key][msg.sender] = Seat(
        state=COMMITTED, ciphertext=ciphertext, r_hash=r_hash, s_hash=s_hash, update=empty(bytes32)
    )
    self.rounds[key].commits += 1
    log events.Committed(
        job=job,
        round=round,
        worker=msg.sender,
        attempt=attempt,
        ciphertext=ciphertext,
        r_hash=r_hash,
        s_hash=s_hash,
    )
    if self.rounds[key].commits == self.rounds[key].slots:
        self._open_reveals(job, round, attempt)
    self._settle_seats(job, msg.sender, SETTLE_BESIDE)


@external
def reveal(
    job: uint256, round: uint256, attempt: uint256, r: bytes32, mask: Bytes[mask_rules.SIZE], update_digest: bytes32
):
    """
    @notice Open a commit. The reveal that completes a majority decides the round, unless it is drawn to be audited, and
            freezes the entropy that the next slots are drawn from; with auto_finalise it also finalises the round.
            In a round that was audited the first reveal of the true update decides.
    @dev Its log is the claim that validators attest: unmasking `ciphertext` with `mask` gives `update_digest`.
         Reverts unless the round takes reveals, the caller committed and has not revealed, r and mask are those of the
         commit, and mask is the caller's canonical signature over Mask(ctx, r).
    @param job Number of the job.
    @param round Number of the round.
    @param attempt Number of the attempt.
    @param r R, 32 bytes.
    @param mask S, 65 bytes r || s || v with v 0 or 1 and low s.
    @param update_digest Blob digest of the update.
    """
    key: bytes32 = self._key(job, round, attempt)
    phase: uint256 = self.rounds[key].phase
    assert REVEAL <= phase and phase <= SETTLED, "round takes no reveals"
    seat: Seat = self.seats[key][msg.sender]
    assert seat.state >= COMMITTED, "caller has not committed"
    assert seat.state == COMMITTED, "already revealed"
    assert keccak256(r) == seat.r_hash, "r is not the committed one"
    assert keccak256(mask) == seat.s_hash, "mask is not the committed one"
    ctx: bytes32 = mask_rules._context(job, round, attempt, msg.sender)
    assert mask_rules._signed_by(msg.sender, ctx, r, mask), "mask is not signed by the caller"
    self.seats[key][msg.sender].state = REVEALED
    self.seats[key][msg.sender].update = update_digest
    self.rounds[key].reveals += 1
    votes: uint256 = self.votes[key][update_digest] + 1
    self.votes[key][update_digest] = votes
    log events.Revealed(
        job=job,
        round=round,
        worker=msg.sender,
        attempt=attempt,
        ctx=ctx,
        ciphertext=seat.ciphertext,
        size=self.jobs[job].update_size,
        r=r,
        mask=mask,
        update_digest=update_digest,
    )
    if phase == SETTLED:
        self._close_if_all_revealed(job, round, attempt)
    elif self.rounds[key].grace_until == 0:
        self._count(job, round, attempt, r, update_digest, votes)
    self._settle_seats(job, msg.sender, SETTLE_BESIDE)


@external
@nonreentrant
def withdraw(job: uint256):
    """
    @notice Settle up to 8 of the caller's seats in one job, then send all that the caller is owed over all jobs.
            If the job has ended, its free deposit is released too.
    @dev Sends nothing, and does not revert, if nothing is owed.
    @param job Number of the job.
    """
    self._settle_all(job, msg.sender)
    amount: uint256 = self.balance_of[msg.sender]
    if amount > 0:
        self.balance_of[msg.sender] = 0
        self.books.owed -= amount
        log events.Withdrawn(account=msg.sender, amount=amount)
        raw_call(msg.sender, b"", value=amount)


# --- external functions, for sponsors and those who want one ---

@external
def ask_sponsor(job: uint256):
    """
    @notice Ask for somebody to put the caller's deposit in a job. The caller enrols by itself once somebody has.
    @dev Reverts where the network has no sponsors. Asking again changes nothing.
    @param job Number of a job that has not ended and is not cancelled.
    """
    assert self.sponsors, "sponsors are off"
    self._require_open(job)
    self.sponsorships[job][msg.sender].wanted = True
    log events.SponsorWanted(job=job, worker=msg.sender)


@external
@payable
def sponsor(job: uint256, worker: address):
    """
    @notice Offer the value as a worker's deposit. The worker takes it by enrolling and then owes it: of all that the job
            credits to the worker from then on, rewards and released deposit, the sponsor is repaid first. Stakes that
            the worker forfeits are lost to the sponsor as far as the worker earns no more.
    @dev Reverts unless the worker has asked since the last offer, if it owes a sponsor, and below one stake.
    @param job Number of a job that has not ended and is not cancelled.
    @param worker Who has asked.
    """
    self._require_open(job)
    known: Sponsorship = self.sponsorships[job][worker]
    assert known.wanted and known.offered + known.owed == 0, "no sponsor is wanted"
    assert msg.value > 0 and msg.value >= self.jobs[job].terms.stake, "offer below a stake"
    known.wanted = False
    known.sponsor = msg.sender
    known.offered = msg.value
    self.sponsorships[job][worker] = known
    self.books.offered += msg.value
    log events.Sponsored(job=job, worker=worker, sponsor=msg.sender, amount=msg.value)


@external
def unsponsor(job: uint256, worker: address):
    """
    @notice Take back an offer that the worker has not taken; the caller may withdraw it.
    @dev Reverts unless there is such an offer of the caller.
    @param job Number of the job.
    @param worker To whom it was made.
    """
    amount: uint256 = self.sponsorships[job][worker].offered
    assert amount > 0 and self.sponsorships[job][worker].sponsor == msg.sender, "no offer of yours"
    self._take_offer(job, worker)
    self._credit(msg.sender, amount)
    log events.Unsponsored(job=job, worker=worker, sponsor=msg.sender, amount=amount)


# --- external functions, for anyone ---

@external
@payable
def appeal(job: uint256, round: uint256, attempt: uint256):
    """
    @notice Have a majority audited before it is paid. If the audit contradicts it, or lapses, the bond comes back; else
            the audit's fee is paid from the bond, and the rest is burned.
    @dev Reverts unless the round has a majority that was not audited, the appeal window is open, and the value is
         exactly the bond.
    @param job Number of the job.
    @param round Number of the round.
    @param attempt Number of the attempt.
    """
    key: bytes32 = self._key(job, round, attempt)
    open: bool = self.rounds[key].phase == REVEAL and block.timestamp < self._appeals_end(job, key)
    assert open, "no appeal is open"
    assert msg.value == self.jobs[job].terms.appeal_bond, "not the bond's value"
    self.books.reserved += msg.value
    self.rounds[key].grace_until = 0
    self._open_audit(job, round, attempt, APPEALED, msg.sender)


@external
def resolve(job: uint256, round: uint256, attempt: uint256, update_digest: bytes32):
    """
    @notice State what the round gives when it is computed again. Whoever revealed that is the winner; if nobody did,
            the reveals are open once more, and the first who does is.
    @dev Its log is the claim that validators attest: training the manifest's model from `base` with `batch_seed` gives
         `update_digest`. Reverts unless the round is being audited. The fee goes to the proposer of this block.
    @param job Number of the job.
    @param round Number of the round.
    @param attempt Number of the attempt.
    @param update_digest Blob digest of the true update.
    """
    key: bytes32 = self._key(job, round, attempt)
    assert self.rounds[key].phase == AUDIT, "round has no audit"
    log events.Audited(
        job=job,
        round=round,
        attempt=attempt,
        ctx=mask_rules._audit_context(job, round, attempt),
        manifest=self.jobs[job].manifest,
        base=self.rounds[key].base,
        batch_seed=self._batch_seed(job, round, attempt),
        size=self.jobs[job].update_size,
        update_digest=update_digest,
    )
    self._pay_auditor(job, key, update_digest)
    self.rounds[key].audit = RESOLVED
    self.rounds[key].winner = update_digest
    votes: uint256 = self.votes[key][update_digest]
    if votes > 0:
        self._decide(job, round, attempt, update_digest, votes)
    else:
        self._open_reveals(job, round, attempt)


@external
def finalise(job: uint256, round: uint256, attempt: uint256, stop: bool):
    """
    @notice Settle a round that has a winner, then open the next one or end the job.
    @dev The owner may at once, or when no appeal may come any more; anyone after the grace. Reverts otherwise.
    @param job Number of the job.
    @param round Number of the round.
    @param attempt Number of the attempt.
    @param stop End the job with this round; only the owner may.
    """
    key: bytes32 = self._key(job, round, attempt)
    assert self.rounds[key].phase == REVEAL, "round takes no finalise"
    assert self.rounds[key].grace_until > 0, "no majority"
    assert block.timestamp >= self._appeals_end(job, key), "appeals may come"
    if msg.sender != self.jobs[job].owner:
        assert not stop, "only the owner may stop"
        assert block.timestamp >= self.rounds[key].grace_until, "grace has not passed"
    self._finalise(job, round, attempt, stop)


@external
def expire(job: uint256, round: uint256, attempt: uint256):
    """
    @notice Grant the last call of a phase whose deadline has passed; after it the round may be closed.
    @dev Reverts before the deadline, and the second time in one phase.
    @param job Number of the job.
    @param round Number of the round.
    @param attempt Number of the attempt.
    """
    key: bytes32 = self._key(job, round, attempt)
    self._require_not_closed(key)
    assert block.timestamp >= self.rounds[key].deadline, "deadline has not passed"
    assert self.rounds[key].last_call_until == 0, "last call was granted"
    until: uint256 = block.timestamp + self.jobs[job].terms.last_call_s
    self.rounds[key].last_call_until = until
    log events.LastCall(job=job, round=round, attempt=attempt, until=until)


@external
def close(job: uint256, round: uint256, attempt: uint256):
    """
    @notice Close a phase whose last call has passed. COMMIT becomes REVEAL if the commits can make a majority, else
            VOID; REVEAL without a winner becomes AUDIT, if rounds are audited and somebody revealed, else VOID; AUDIT
            lapses; SETTLED becomes CLOSED.
    @dev Reverts before the end of the last call, and if there is a winner that waits to be finalised.
    @param job Number of the job.
    @param round Number of the round.
    @param attempt Number of the attempt.
    """
    key: bytes32 = self._key(job, round, attempt)
    self._require_not_closed(key)
    last_call_until: uint256 = self.rounds[key].last_call_until
    assert last_call_until > 0, "no last call was granted"
    assert block.timestamp >= last_call_until, "last call has not passed"
    phase: uint256 = self.rounds[key].phase
    if phase == SETTLED:
        self._close(job, round, attempt)
    elif phase == COMMIT and 2 * self.rounds[key].commits > self.rounds[key].slots:
        self._open_reveals(job, round, attempt)
    elif phase == AUDIT:
        self._lapse(job, round, attempt)
    else:
        assert self.rounds[key].grace_until == 0, "finalise first"
        if self._needs_audit(job, key):
            self._open_audit(job, round, attempt, UNDECIDED, empty(address))
        else:
            self._void(job, round, attempt)


@external
def end(job: uint256):
    """
    @notice End a job that waits for workers after its deadline.
    @dev Reverts if a round is open, the deadline has not passed or the job has ended.
    @param job Number of the job.
    """
    self._require_open(job)
    assert self.jobs[job].state == WAITING, "a round is open"
    assert block.timestamp >= self.jobs[job].terms.deadline, "deadline has not passed"
    self._end(job, DEADLINE)


@external
def settle(job: uint256, worker: address):
    """
    @notice Settle up to 8 decided seats of a worker, oldest first. If the job has ended, its free deposit is released
            too, so that a sponsor need not wait for the worker.
    @param job Number of the job.
    @param worker Whose seats.
    """
    self._settle_all(job, worker)


# --- views ---

@external
@view
def job(job: uint256) -> Job:
    """
    @notice A job as it stands.
    @dev Reverts if there is none of that number.
    """
    self._require_posted(job)
    return self.jobs[job]


@external
@view
def round_of(job: uint256, round: uint256, attempt: uint256) -> Round:
    """
    @notice A round as it stands; all zero if it was never opened.
    """
    return self.rounds[self._key(job, round, attempt)]


@external
@view
def votes_of(job: uint256, round: uint256, attempt: uint256, update_digest: bytes32) -> uint256:
    """
    @notice How many slots revealed a digest.
    """
    return self.votes[self._key(job, round, attempt)][update_digest]


@external
@view
def seat(job: uint256, round: uint256, attempt: uint256, worker: address) -> Seat:
    """
    @notice A seat as it stands; all zero if the worker was not drawn.
    """
    return self.seats[self._key(job, round, attempt)][worker]


@external
@view
def enrolment(job: uint256, worker: address) -> Enrolment:
    """
    @notice A worker's enrolment as it stands. Its locked deposit is (tail - head) stakes.
    """
    return self.enrolments[job][worker]


@external
@view
def sponsorship(job: uint256, worker: address) -> Sponsorship:
    """
    @notice Whether a worker wants a sponsor, what one offers, and what it owes.
    """
    return self.sponsorships[job][worker]


@external
@view
def enrolled_at(job: uint256, index: uint256) -> address:
    """
    @notice The enrolled worker at one place, 0 .. enrolled_count - 1; zero past the end. Places change.
    """
    return self.enrolled[job][index]


# --- internal functions: guards and names ---

@internal
@view
def _require_posted(job: uint256):
    assert self.jobs[job].state > 0, "no such job"


@internal
@view
def _require_open(job: uint256):
    self._require_posted(job)
    assert self.jobs[job].state != ENDED, "job has ended"
    assert not self.jobs[job].cancelled, "job is cancelled"


@internal
@view
def _require_not_closed(key: bytes32):
    phase: uint256 = self.rounds[key].phase
    assert COMMIT <= phase and phase <= SETTLED, "round is not open"


@internal
@view
def _require_draw_unknown(job: uint256):
    """
    @notice From the reveal that decides a round on, or leads to its audit, everybody can compute who will be drawn next
            among those enrolled. Until then nobody joins or leaves, or who has most identities would choose the slots.
    """
    key: bytes32 = self._key(job, self.jobs[job].settled + 1, self.jobs[job].attempt)
    foretold: bool = self.rounds[key].grace_until > 0 or self.rounds[key].audit > 0
    assert not foretold, "slots are about to be drawn"


@internal
@pure
def _key(job: uint256, round: uint256, attempt: uint256) -> bytes32:
    return keccak256(abi_encode(job, round, attempt))


@internal
@view
def _batch_seed(job: uint256, round: uint256, attempt: uint256) -> bytes32:
    return keccak256(abi_encode(self.jobs[job].seed, round, attempt))


# --- internal functions: the course of a round ---

@internal
def _open_round(job: uint256):
    """
    @notice Draw slots and open the next round, or wait if too few of the enrolled can cover a stake.
    """
    terms: terms_rules.Terms = self.jobs[job].terms
    round: uint256 = self.jobs[job].settled + 1
    attempt: uint256 = self.jobs[job].attempt
    if round == 1 and attempt == 1:
        self.jobs[job].entropy = block.prevhash
    slots: uint256 = self._draw(job, terms.slots, terms.stake, terms.workers_min)
    if slots < terms.workers_min:
        self.jobs[job].state = WAITING
        log events.JobWaiting(job=job, enrolled=self.enrolled_count[job])
        return
    price: uint256 = terms.reward * slots + terms.audit_fee
    if self.jobs[job].escrow < price:  # audits of void attempts have spent it
        self._end(job, FAILED)
        return
    self.jobs[job].state = RUNNING
    self.jobs[job].escrow -= price
    self.books.escrowed -= price
    self.books.reserved += price
    base: bytes32 = self.jobs[job].base
    deadline: uint256 = block.timestamp + terms.commit_window_s
    key: bytes32 = self._key(job, round, attempt)
    self.rounds[key].phase = COMMIT
    self.rounds[key].slots = slots
    self.rounds[key].base = base
    self.rounds[key].deadline = deadline
    self.rounds[key].fee = terms.audit_fee
    workers: DynArray[address, terms_rules.SLOTS_MAX] = self._take_seats(job, round, attempt, slots, terms.stake)
    log events.RoundOpened(
        job=job,
        round=round,
        attempt=attempt,
        base=base,
        batch_seed=self._batch_seed(job, round, attempt),
        workers=workers,
        commit_deadline=deadline,
    )


@internal
def _draw(job: uint256, slots: uint256, stake: uint256, workers_min: uint256) -> uint256:
    """
    @notice Bring up to `slots` workers that can cover a stake to the front of the array, chosen by the job's entropy:
            the first steps of a Fisher-Yates shuffle. If no more are enrolled than there are slots, all are taken.
            Who did not commit when it was drawn last is evicted, as long as enough others are enrolled: it has to
            enrol again before it may delay another round.
    @return How many were drawn.
    """
    drawn: uint256 = 0
    entropy: bytes32 = self.jobs[job].entropy
    for step: uint256 in range(DRAWS_MAX):
        count: uint256 = self.enrolled_count[job]
        if drawn == min(slots, count):
            break
        place: uint256 = drawn
        if count > slots:
            place += convert(keccak256(abi_encode(entropy, job, step)), uint256) % (count - drawn)
        worker: address = self.enrolled[job][place]
        absent: bool = count > workers_min and self._was_absent(job, worker)
        if not absent:
            self._settle_seats(job, worker, SETTLE_BESIDE)
        if absent or self.enrolments[job][worker].free < stake:
            log events.Evicted(job=job, worker=worker, absent=absent)
            self._remove(job, worker)
        else:
            self._put(job, place, self.enrolled[job][drawn])
            self._put(job, drawn, worker)
            drawn += 1
    return drawn


@internal
@view
def _was_absent(job: uint256, worker: address) -> bool:
    """
    @notice Whether a worker did not commit when it was drawn last, since it enrolled.
    """
    tail: uint256 = self.enrolments[job][worker].tail
    if tail == self.enrolments[job][worker].since:
        return False
    packed: uint256 = self.queues[job][worker][tail - 1]
    state: uint256 = self.seats[self._key(job, packed // 256, packed % 256)][worker].state
    return state == DRAWN or state == ABSENT


@internal
def _take_seats(
    job: uint256, round: uint256, attempt: uint256, slots: uint256, stake: uint256
) -> DynArray[address, terms_rules.SLOTS_MAX]:
    """
    @notice Seat the workers at the front of the array: lock a stake of each and queue their seats.
    """
    key: bytes32 = self._key(job, round, attempt)
    workers: DynArray[address, terms_rules.SLOTS_MAX] = []
    for place: uint256 in range(slots, bound=terms_rules.SLOTS_MAX):
        worker: address = self.enrolled[job][place]
        self.seats[key][worker].state = DRAWN
        tail: uint256 = self.enrolments[job][worker].tail
        self.queues[job][worker][tail] = round * 256 + attempt
        self.enrolments[job][worker].tail = tail + 1
        self.enrolments[job][worker].free -= stake
        workers.append(worker)
    self.books.free -= stake * slots
    self.books.locked += stake * slots
    return workers


@internal
def _open_reveals(job: uint256, round: uint256, attempt: uint256):
    key: bytes32 = self._key(job, round, attempt)
    deadline: uint256 = block.timestamp + self.jobs[job].terms.reveal_window_s
    self.rounds[key].phase = REVEAL
    self.rounds[key].deadline = deadline
    self.rounds[key].last_call_until = 0
    if self.jobs[job].terms.audit_ppm > 0:
        self.rounds[key].opened_in = block.number
    log events.RevealOpened(
        job=job, round=round, attempt=attempt, commits=self.rounds[key].commits, reveal_deadline=deadline
    )


@internal
def _mix_entropy(job: uint256, r: bytes32):
    share: bytes32 = keccak256(concat(b"draw", r))
    mixed: uint256 = convert(self.jobs[job].entropy, uint256) ^ convert(share, uint256)
    self.jobs[job].entropy = convert(mixed, bytes32)


@internal
def _count(job: uint256, round: uint256, attempt: uint256, r: bytes32, update_digest: bytes32, votes: uint256):
    """
    @notice What a reveal changes in a round that has no winner yet.
    """
    key: bytes32 = self._key(job, round, attempt)
    audit: uint256 = self.rounds[key].audit
    majority: bool = 2 * votes > self.rounds[key].slots
    if audit == RESOLVED:
        if update_digest == self.rounds[key].winner:
            self._decide(job, round, attempt, update_digest, votes)
    elif audit == OPEN:
        if majority:
            self.rounds[key].winner = update_digest  # if the audit lapses
    else:
        self._mix_entropy(job, r)
        opened_in: uint256 = self.rounds[key].opened_in
        if opened_in > 0 and self.rounds[key].reveals == 1:
            self.rounds[key].seed = self._hash_of(opened_in)
        if majority and opened_in > 0 and self._is_drawn(job, key):
            self.rounds[key].winner = update_digest  # if the audit lapses
            self._open_audit(job, round, attempt, DRAWN_BY_LOT, empty(address))
        elif majority:
            self._decide(job, round, attempt, update_digest, votes)


@internal
def _decide(job: uint256, round: uint256, attempt: uint256, winner: bytes32, votes: uint256):
    key: bytes32 = self._key(job, round, attempt)
    grace_until: uint256 = block.timestamp + self.jobs[job].terms.grace_s
    if self.rounds[key].audit == 0:
        grace_until += self.jobs[job].terms.appeal_window_s
    self.rounds[key].phase = REVEAL
    self.rounds[key].winner = winner
    self.rounds[key].grace_until = grace_until
    log events.MajorityReached(
        job=job, round=round, attempt=attempt, update_digest=winner, votes=votes, grace_until=grace_until
    )
    if self.jobs[job].terms.auto_finalise:
        self._finalise(job, round, attempt, False)


@internal
def _finalise(job: uint256, round: uint256, attempt: uint256, stop: bool):
    key: bytes32 = self._key(job, round, attempt)
    winner: bytes32 = self.rounds[key].winner
    self._return_fee(job, key)
    self.rounds[key].phase = SETTLED
    self.rounds[key].last_call_until = 0
    self.jobs[job].base = winner
    self.jobs[job].settled = round
    self.jobs[job].attempt = 1
    log events.RoundSettled(
        job=job, round=round, attempt=attempt, update_digest=winner, votes=self.votes[key][winner]
    )
    self._close_if_all_revealed(job, round, attempt)
    if stop:
        self._end(job, STOPPED)
    elif self.jobs[job].cancelled:
        self._end(job, CANCELLED)
    elif round == self.jobs[job].terms.rounds_max:
        self._end(job, FINISHED)
    elif block.timestamp >= self.jobs[job].terms.deadline:
        self._end(job, DEADLINE)
    else:
        self._open_round(job)


@internal
def _close_if_all_revealed(job: uint256, round: uint256, attempt: uint256):
    key: bytes32 = self._key(job, round, attempt)
    if self.rounds[key].reveals == self.rounds[key].commits:
        self._close(job, round, attempt)


@internal
def _close(job: uint256, round: uint256, attempt: uint256):
    """
    @notice Close a settled round. What its slots did not earn returns.
    """
    key: bytes32 = self._key(job, round, attempt)
    self.rounds[key].phase = CLOSED
    unearned: uint256 = self.rounds[key].slots - self.votes[key][self.rounds[key].winner]
    self._return_reserve(job, self.jobs[job].terms.reward * unearned)
    log events.RoundClosed(job=job, round=round, attempt=attempt)


@internal
def _void(job: uint256, round: uint256, attempt: uint256):
    """
    @notice Void an undecided round. Open it again, unless that was the last attempt or the job is to end.
    """
    key: bytes32 = self._key(job, round, attempt)
    self.rounds[key].phase = VOID
    self._return_reserve(job, self.jobs[job].terms.reward * self.rounds[key].slots)
    self._return_fee(job, key)
    log events.RoundVoided(
        job=job, round=round, attempt=attempt, commits=self.rounds[key].commits, reveals=self.rounds[key].reveals
    )
    self.jobs[job].attempt = attempt + 1
    self.jobs[job].entropy = keccak256(abi_encode(self.jobs[job].entropy, attempt))
    if self.jobs[job].cancelled:
        self._end(job, CANCELLED)
    elif attempt == self.jobs[job].terms.attempts_max:
        self._end(job, FAILED)
    elif block.timestamp >= self.jobs[job].terms.deadline:
        self._end(job, DEADLINE)
    else:
        self._open_round(job)


@internal
def _end(job: uint256, reason: uint256):
    self.jobs[job].state = ENDED
    escrow: uint256 = self.jobs[job].escrow
    self.jobs[job].escrow = 0
    self.books.escrowed -= escrow
    self._credit(self.jobs[job].owner, escrow)
    log events.JobEnded(job=job, reason=reason, rounds=self.jobs[job].settled, base=self.jobs[job].base)
    extcall JobFinder(FINDER).delist_job(job)


# --- internal functions: audits ---

@internal
@view
def _hash_of(number: uint256) -> bytes32:
    """
    @notice A block's hash, which its proposer's signature is part of; zero if BLOCKHASH does not reach it.
    """
    if number >= block.number or number + HASHES_MAX < block.number:
        return empty(bytes32)
    return blockhash(number)


@internal
@view
def _is_drawn(job: uint256, key: bytes32) -> bool:
    """
    @notice Whether a round with a majority is audited, in a job whose rounds may be: by lot, from the hash of the block
            that opened the reveals; without one, always. Nobody but that block's proposer can know it and still commit.
            The R values are not in it: colluders would choose whose reveal completes the majority, hence among lots.
    """
    seed: bytes32 = self.rounds[key].seed
    if seed == empty(bytes32):
        return True
    lot: uint256 = convert(keccak256(concat(b"audit", key, seed)), uint256)
    return lot % terms_rules.MILLION < self.jobs[job].terms.audit_ppm


@internal
@view
def _needs_audit(job: uint256, key: bytes32) -> bool:
    """
    @notice Whether a round without a majority at the end of its reveals is audited. Where nobody revealed, nobody could
            be paid, and who withheld forfeits without it.
    """
    return self.jobs[job].terms.audit_ppm > 0 and self.rounds[key].audit == 0 and self.rounds[key].reveals > 0


@internal
@view
def _appeals_end(job: uint256, key: bytes32) -> uint256:
    """
    @notice Until when a majority may be appealed against: when it was reached, if the round may not be audited (again).
    """
    grace_until: uint256 = self.rounds[key].grace_until
    return 0 if grace_until == 0 else grace_until - self.jobs[job].terms.grace_s


@internal
def _open_audit(job: uint256, round: uint256, attempt: uint256, cause: uint256, appellant: address):
    key: bytes32 = self._key(job, round, attempt)
    deadline: uint256 = block.timestamp + self.jobs[job].terms.audit_window_s
    self.rounds[key].phase = AUDIT
    self.rounds[key].audit = OPEN
    self.rounds[key].appellant = appellant
    self.rounds[key].deadline = deadline
    self.rounds[key].last_call_until = 0
    log events.AuditOpened(
        job=job, round=round, attempt=attempt, cause=cause, appellant=appellant, deadline=deadline
    )


@internal
def _pay_auditor(job: uint256, key: bytes32, update_digest: bytes32):
    """
    @notice Pay the fee to the proposer of this block: proposers take turns, so every validator earns the same over time.
            It comes from the bond of an appeal that the verdict does not bear out, else from the round's reserve.
    """
    appellant: address = self.rounds[key].appellant
    fee: uint256 = self.jobs[job].terms.audit_fee
    if appellant != empty(address) and update_digest == self.rounds[key].winner:
        bond: uint256 = self.jobs[job].terms.appeal_bond
        self.books.reserved -= bond
        self._burn(bond - fee)
    else:
        self._return_bond(job, key)
        self.rounds[key].fee = 0
        self.books.reserved -= fee
    self._credit(block.coinbase, fee)


@internal
def _lapse(job: uint256, round: uint256, attempt: uint256):
    """
    @notice End an audit that nobody resolved: the round goes on as if it had not been.
    """
    key: bytes32 = self._key(job, round, attempt)
    self.rounds[key].audit = LAPSED
    log events.AuditLapsed(job=job, round=round, attempt=attempt)
    self._return_bond(job, key)
    winner: bytes32 = self.rounds[key].winner
    votes: uint256 = self.votes[key][winner]
    if 2 * votes > self.rounds[key].slots:
        self._decide(job, round, attempt, winner, votes)
    else:
        self._void(job, round, attempt)


@internal
def _return_bond(job: uint256, key: bytes32):
    appellant: address = self.rounds[key].appellant
    if appellant != empty(address):
        bond: uint256 = self.jobs[job].terms.appeal_bond
        self.books.reserved -= bond
        self._credit(appellant, bond)


@internal
def _return_fee(job: uint256, key: bytes32):
    """
    @notice Return the fee of an audit that did not come, or that an appellant paid.
    """
    fee: uint256 = self.rounds[key].fee
    if fee > 0:
        self.rounds[key].fee = 0
        self._return_reserve(job, fee)


# --- internal functions: enrolled workers ---

@internal
def _put(job: uint256, place: uint256, worker: address):
    self.enrolled[job][place] = worker
    self.enrolments[job][worker].position = place + 1


@internal
def _leave(job: uint256, worker: address):
    log events.Left(job=job, worker=worker, released=self.enrolments[job][worker].free)
    self._remove(job, worker)


@internal
def _remove(job: uint256, worker: address):
    """
    @notice Take a worker out of the array, the last one into its place, and release the free deposit.
    """
    last: uint256 = self.enrolled_count[job] - 1
    self._put(job, self.enrolments[job][worker].position - 1, self.enrolled[job][last])
    self.enrolled[job][last] = empty(address)
    self.enrolled_count[job] = last
    released: uint256 = self.enrolments[job][worker].free
    self.enrolments[job][worker].position = 0
    self.enrolments[job][worker].free = 0
    self.books.free -= released
    self._pay(job, worker, released)


# --- internal functions: money ---

@internal
@payable
def _take_escrow(job: uint256, rounds: uint256):
    """
    @notice Escrow what so many rounds may cost: every slot's reward, and one audit each.
    """
    round_max: uint256 = self.jobs[job].terms.reward * self.jobs[job].terms.slots + self.jobs[job].terms.audit_fee
    price: uint256 = round_max * rounds
    assert msg.value == price, "value is not (reward * slots + audit fee) * rounds"
    self.jobs[job].escrow += price
    self.books.escrowed += price


@internal
def _return_reserve(job: uint256, amount: uint256):
    """
    @notice Return rewards that no slot earned, or a fee: to the escrow, or to the owner of a job that has ended.
    """
    self.books.reserved -= amount
    if self.jobs[job].state == ENDED:
        self._credit(self.jobs[job].owner, amount)
    else:
        self.jobs[job].escrow += amount
        self.books.escrowed += amount


@internal
def _credit(account: address, amount: uint256):
    self.balance_of[account] += amount
    self.books.owed += amount


@internal
def _burn(amount: uint256):
    if amount > 0:
        self.books.burned += amount
        send(empty(address), amount)


@internal
def _take_offer(job: uint256, worker: address) -> uint256:
    """
    @notice Take what a sponsor offers off the books.
    @return How much that is.
    """
    amount: uint256 = self.sponsorships[job][worker].offered
    if amount > 0:
        self.sponsorships[job][worker].offered = 0
        self.books.offered -= amount
    return amount


@internal
def _pay(job: uint256, worker: address, amount: uint256):
    """
    @notice Credit to a worker what a job gives it, less what it owes its sponsor there, who is credited that.
    """
    owed: uint256 = self.sponsorships[job][worker].owed
    repaid: uint256 = min(owed, amount)
    if repaid > 0:
        self.sponsorships[job][worker].owed = owed - repaid
        sponsor: address = self.sponsorships[job][worker].sponsor
        self._credit(sponsor, repaid)
        log events.DebtRepaid(job=job, worker=worker, sponsor=sponsor, amount=repaid)
    self._credit(worker, amount - repaid)


@internal
def _settle_all(job: uint256, worker: address):
    """
    @notice Settle up to 8 seats of a worker; if the job has ended, release its free deposit too.
    """
    self._require_posted(job)
    self._settle_seats(job, worker, SETTLE_MAX)
    if self.jobs[job].state == ENDED and self.enrolments[job][worker].position > 0:
        self._leave(job, worker)


@internal
def _settle_seats(job: uint256, worker: address, count: uint256):
    """
    @notice Settle up to `count` seats of a worker, oldest first, up to the first that is not decided yet.
    """
    head: uint256 = self.enrolments[job][worker].head
    tail: uint256 = self.enrolments[job][worker].tail
    burned: uint256 = 0
    for step: uint256 in range(count, bound=SETTLE_MAX):
        if head == tail:
            break
        packed: uint256 = self.queues[job][worker][head]
        settled: bool = False
        forfeited: uint256 = 0
        settled, forfeited = self._settle_seat(job, packed // 256, packed % 256, worker)
        if not settled:
            break
        burned += forfeited
        head += 1
    self.enrolments[job][worker].head = head
    self._burn(burned)


@internal
def _settle_seat(job: uint256, round: uint256, attempt: uint256, worker: address) -> (bool, uint256):
    """
    @notice Settle one seat if it is decided: reward and stake to a winner, stake to whoever did what a void round
            asked, else the stake is forfeited. In a void round that was audited nobody has revealed the true update.
    @return Whether it is decided, and wei to burn.
    """
    key: bytes32 = self._key(job, round, attempt)
    phase: uint256 = self.rounds[key].phase
    state: uint256 = self.seats[key][worker].state
    keeps: bool = False
    earned: uint256 = 0
    if phase == VOID:
        # a round without enough commits for a majority never asked for reveals
        asked: uint256 = REVEALED if 2 * self.rounds[key].commits > self.rounds[key].slots else COMMITTED
        keeps = state >= asked and self.rounds[key].audit != RESOLVED
    elif phase == CLOSED or (phase == SETTLED and state == REVEALED):
        keeps = state == REVEALED and self.seats[key][worker].update == self.rounds[key].winner
        if keeps:
            earned = self.jobs[job].terms.reward
    else:
        return False, 0
    self.seats[key][worker].state = ABSENT if state == DRAWN else SEAT_SETTLED
    stake: uint256 = self.jobs[job].terms.stake
    forfeited: uint256 = 0 if keeps else stake
    self.books.locked -= stake
    self.books.reserved -= earned
    if keeps and self.enrolments[job][worker].position > 0:
        self.enrolments[job][worker].free += stake
        self.books.free += stake
        self._pay(job, worker, earned)
    elif keeps:
        self._pay(job, worker, earned + stake)
    log events.SeatSettled(
        job=job, round=round, worker=worker, attempt=attempt, earned=earned, forfeited=forfeited
    )
    return True, forfeited
