# pragma version 0.4.3
"""
@title Events of replicated jobs
@license Apache-2.0
@notice Everything that a role needs to know is in these logs. Indexed fields come first;
        chain/contracts/events.py names and orders them in the same way.
"""

# --- imports ---

import mask as mask_rules
import terms


# --- events ---

event JobPosted:
    job: indexed(uint256)
    owner: indexed(address)
    manifest: bytes32
    base: bytes32
    update_size: uint256
    seed: bytes32
    reward: uint256
    stake: uint256
    slots: uint256
    workers_min: uint256
    rounds_max: uint256
    attempts_max: uint256
    commit_window_s: uint256
    reveal_window_s: uint256
    last_call_s: uint256
    grace_s: uint256
    deadline: uint256
    auto_finalise: bool


event JobToppedUp:
    job: indexed(uint256)
    rounds_max: uint256


event JobCancelled:
    job: indexed(uint256)


event JobWaiting:
    job: indexed(uint256)
    enrolled: uint256


event JobEnded:
    job: indexed(uint256)
    reason: uint256
    rounds: uint256
    base: bytes32


event Enrolled:
    job: indexed(uint256)
    worker: indexed(address)
    free: uint256


event Left:
    job: indexed(uint256)
    worker: indexed(address)
    released: uint256


event Evicted:
    job: indexed(uint256)
    worker: indexed(address)


event RoundOpened:
    job: indexed(uint256)
    round: indexed(uint256)
    attempt: uint256
    base: bytes32
    batch_seed: bytes32
    workers: DynArray[address, terms.SLOTS_MAX]
    commit_deadline: uint256


event Committed:
    job: indexed(uint256)
    round: indexed(uint256)
    worker: indexed(address)
    attempt: uint256
    ciphertext: bytes32
    r_hash: bytes32
    s_hash: bytes32


event RevealOpened:
    job: indexed(uint256)
    round: indexed(uint256)
    attempt: uint256
    commits: uint256
    reveal_deadline: uint256


event Revealed:
    job: indexed(uint256)
    round: indexed(uint256)
    worker: indexed(address)
    attempt: uint256
    ctx: bytes32
    ciphertext: bytes32
    size: uint256
    r: bytes32
    mask: Bytes[mask_rules.SIZE]
    update_digest: bytes32


event MajorityReached:
    job: indexed(uint256)
    round: indexed(uint256)
    attempt: uint256
    update_digest: bytes32
    votes: uint256
    grace_until: uint256


event LastCall:
    job: indexed(uint256)
    round: indexed(uint256)
    attempt: uint256
    until: uint256


event RoundSettled:
    job: indexed(uint256)
    round: indexed(uint256)
    attempt: uint256
    update_digest: bytes32
    votes: uint256


event RoundVoided:
    job: indexed(uint256)
    round: indexed(uint256)
    attempt: uint256
    commits: uint256
    reveals: uint256


event RoundClosed:
    job: indexed(uint256)
    round: indexed(uint256)
    attempt: uint256


event SeatSettled:
    job: indexed(uint256)
    round: indexed(uint256)
    worker: indexed(address)
    attempt: uint256
    earned: uint256
    forfeited: uint256


event SponsorWanted:
    job: indexed(uint256)
    worker: indexed(address)


event Sponsored:
    job: indexed(uint256)
    worker: indexed(address)
    sponsor: indexed(address)
    amount: uint256


event Unsponsored:
    job: indexed(uint256)
    worker: indexed(address)
    sponsor: indexed(address)
    amount: uint256


event DebtRepaid:
    job: indexed(uint256)
    worker: indexed(address)
    sponsor: indexed(address)
    amount: uint256


event Withdrawn:
    account: indexed(address)
    amount: uint256
