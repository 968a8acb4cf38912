# pragma version 0.4.3
"""
@title Terms of a replicated job
@license Apache-2.0
@notice What owner and workers agree on when a job is posted, and the limits that keep every job able to end.
@dev The limits are not taste: each bounds a sum or product, so that no term makes a later call overflow and strands the
     stakes of a running round.
"""

# --- constants ---

SLOTS_MAX: constant(uint256) = 31
ROUNDS_MAX: constant(uint256) = 2**32
ATTEMPTS_MAX: constant(uint256) = 255
WINDOW_MAX_S: constant(uint256) = 365 * 86400
AMOUNT_MAX: constant(uint256) = 2**96
MILLION: constant(uint256) = 10**6


# --- structs ---

struct Terms:
    reward: uint256  # wei, to each slot that reveals the winning update
    stake: uint256  # wei, locked by each slot
    slots: uint256  # odd; fewer are drawn when fewer are enrolled
    workers_min: uint256  # below this many the job waits
    rounds_max: uint256  # rounds promised and escrowed
    attempts_max: uint256  # attempts of one round, after which the job has failed
    commit_window_s: uint256
    reveal_window_s: uint256
    last_call_s: uint256  # granted by expire, once per phase
    grace_s: uint256  # after a majority, during which only the owner finalises
    deadline: uint256  # seconds since the epoch; no round opens from then on
    auto_finalise: bool  # the deciding reveal finalises the round
    audit_ppm: uint256  # probability that a decided round is audited, in parts per million; 0: no round is drawn
    audit_window_s: uint256  # for validators to resolve an audit
    audit_fee: uint256  # wei, escrowed with each round, to whoever proposes the block with the verdict
    appeal_window_s: uint256  # after a majority, during which anyone may have it audited; 0: no appeals
    appeal_bond: uint256  # wei, what an appeal must carry; at least the fee


# --- internal functions ---

@internal
@view
def _check(terms: Terms):
    """
    @notice Revert, naming the term, or what it is about, unless all terms are within their limits.
    """
    assert terms.reward <= AMOUNT_MAX, "replicated: reward too large"
    assert terms.stake <= AMOUNT_MAX, "replicated: stake too large"
    assert terms.slots <= SLOTS_MAX and terms.slots % 2 == 1, "replicated: slots must be odd, 1 to 31"
    assert 1 <= terms.workers_min and terms.workers_min <= terms.slots, "replicated: workers_min must be 1 to slots"
    assert 1 <= terms.rounds_max and terms.rounds_max <= ROUNDS_MAX, "replicated: rounds out of range"
    assert 1 <= terms.attempts_max and terms.attempts_max <= ATTEMPTS_MAX, "replicated: attempts_max must be 1 to 255"
    assert self._is_window(terms.commit_window_s), "replicated: commit window must be 1 s to 365 days"
    assert self._is_window(terms.reveal_window_s), "replicated: reveal window must be 1 s to 365 days"
    assert self._is_window(terms.last_call_s), "replicated: last call must be 1 s to 365 days"
    assert terms.grace_s <= WINDOW_MAX_S, "replicated: grace over 365 days"
    assert terms.deadline > block.timestamp, "replicated: deadline has passed"
    audits: bool = terms.audit_ppm <= MILLION and terms.audit_fee <= AMOUNT_MAX
    assert audits and self._is_window(terms.audit_window_s), "replicated: audits out of range"
    if terms.appeal_window_s > 0:  # with auto_finalise there would be no time for appeals
        appeals: bool = self._is_window(terms.appeal_window_s) and not terms.auto_finalise
        appeals = appeals and terms.audit_fee <= terms.appeal_bond and terms.appeal_bond <= AMOUNT_MAX
        assert appeals, "replicated: appeals out of range"


@internal
@pure
def _is_window(seconds: uint256) -> bool:
    return 1 <= seconds and seconds <= WINDOW_MAX_S
