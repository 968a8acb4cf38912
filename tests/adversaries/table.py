"""Every attack that is known: what defends against it, flnode without that defence, and the tests that show both.

`ATTACKS`: `test_simulated.py` plays each against the defence and against the variant, from a seed, and
`test_real_nodes.py` plays the same programs against real nodes. `ELSEWHERE`: what is about one part only, and the tests
of that part. `PRICED`: what is not prevented, and the tests that show its price. docs/PROTOCOL.md tells all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from chain import masking
from chain.contracts import REPLICATED
from chain.contracts import bindings as b
from chain.header import address_of_secret
from node import unixfs
from tests.adversaries import owners, variants, workers
from tests.adversaries.arena import BASE, GAS_MAX, REWARD, STAKE, TERMS, Cast, Played
from tests.adversaries.owners import Offer
from tests.adversaries.program import Program
from tests.adversaries.variants import Variant
from tests.chain.chain_kit import CHAIN_ID, NOW, USERS
from tests.sim.jobs import MANIFEST, SIZE

FIVE = replace(TERMS, slots=5, workers_min=5)
FOUR_OF_FIVE = replace(TERMS, slots=5, workers_min=4)
PATIENT = replace(TERMS, grace_s=30)  # longer than the reveal window and its last call
BRIEF = replace(TERMS, deadline=NOW + 30)

Success = Callable[[Played], bool]


def earns(played: Played) -> bool:
    """A slot is paid that was not worked for."""
    return played.gained > REWARD - GAS_MAX


def costs_nothing(played: Played) -> bool:
    """What it takes away from others, or gets from them, costs the adversary gas only."""
    return played.gained > -GAS_MAX


def is_taken(played: Played) -> bool:
    """The reveal is."""
    return not any(tag.startswith("reveal") for tag in played.failed)


def robs(played: Played) -> bool:
    """Honest workers lose stakes."""
    return played.forfeited > 0


@dataclass(frozen=True)
class Attack:
    """
    Attributes:
        real: who does it among real nodes (tests/adversaries/lineup.py).
        defence: what of flnode stands against it.
        cast: who plays.
        variant: flnode without the defence.
        succeeds: what the attack is after, and reaches in the variant only.
        loses: wei that it costs at least, where the defence is there.
        pays_honest: whether honest workers earn in every settled round in which they hold a slot, and lose nothing.
    """

    name: str
    real: tuple[str, ...]
    defence: str
    cast: Callable[[], Cast]
    variant: Variant
    succeeds: Success = earns
    loses: int = STAKE
    pays_honest: bool = True
    seed: int = 0


def _workers(*programs: Program, **changes: object) -> Callable[[], Cast]:
    return lambda: replace(Cast(foes=programs, terms=FIVE if len(programs) == 2 else FOUR_OF_FIVE), **changes)  # type: ignore[arg-type]


def _owned(owner: Callable[[Offer], Program], foes: Sequence[Program] = (), **changes: object) -> Callable[[], Cast]:
    offer = Offer(MANIFEST.encode(), MANIFEST.digest(), unixfs.digest_of(BASE), SIZE, PATIENT)
    honest = 2 if foes else 3
    return lambda: Cast(foes=foes, owner=owner(replace(offer, **changes)), honest=honest)  # type: ignore[arg-type]


def revealed_elsewhere(keys: Sequence[bytes], chain_id: int, contract: bytes, job: int = 1) -> list[b.Revealed]:
    """What the keys of honest workers revealed in the first round of a job of that number in another place."""
    found = []
    for key in keys:
        worker = address_of_secret(key)
        ctx = masking.context(chain_id, contract, job, 1, 1, worker)
        r = masking.derive_r(key, ctx)
        mask = masking.sign_mask(key, chain_id, contract, ctx, r)
        found.append(b.Revealed(0, 0, worker, 1, ctx, bytes(32), SIZE, r, mask, bytes(32)))
    return found


def _elsewhere(chain_id: int, contract: bytes) -> Callable[[], Cast]:
    foes = [workers.reuses_a_mask_of("elsewhere")]
    return lambda: Cast(foes, terms=FOUR_OF_FIVE, elsewhere=revealed_elsewhere(USERS[1:4], chain_id, contract))


COLLUDER = workers.with_update("what colluders agreed on")
VOTE = "the vote: only the digest of more than half of the slots is paid, everybody else forfeits"
CLAIM = "the claim: a quorum of validators unmasks the ciphertext and compares digests before the reveal is in a block"
CONTEXT = "ctx, which R, S and the stream's key depend on, names it, so no mask is ever used twice"

CANNOT_FETCH = CLAIM + "; what cannot be fetched is unknown, never true"
UPDATE = workers.with_update
DECLINE = "workers compute base and size from the manifest before they enrol, and decline"

ATTACKS: tuple[Attack, ...] = (
    Attack(
        "copy an earlier reveal",
        ("copies a reveal",),
        CLAIM,
        _workers(workers.copies_a_reveal, validators=4),
        variants.CLAIMS_UNCHECKED,
    ),
    Attack(
        "copy the ciphertext",
        ("copies a ciphertext",),
        CLAIM,
        _workers(workers.copies_a_ciphertext, validators=4),
        variants.CLAIMS_UNCHECKED,
    ),
    Attack(
        "copy a whole commit",
        ("copies a commit",),
        "S is the committer's own signature over its own ctx",
        _workers(workers.copies_a_commit),
        variants.ANYBODYS_MASK,
    ),
    Attack(
        "solve for a key",
        ("solves for a key",),
        "the commit binds S by keccak(S), and S is a signature, not the pad",
        _workers(workers.solves_for_a_key),
        variants.ORIGINAL_SCHEME,
    ),
    Attack(
        "replay from another round",
        ("from another round",),
        CONTEXT,
        _workers(workers.reuses_a_mask_of("another round"), terms=replace(TERMS, slots=5, rounds_max=2)),
        variants.NO_ROUND,
    ),
    Attack(
        "replay from another job",
        ("from another job",),
        CONTEXT,
        _workers(workers.reuses_a_mask_of("another job"), jobs=2),
        variants.NO_JOB,
    ),
    Attack(
        "replay from another contract",
        ("from another contract",),
        CONTEXT,
        _elsewhere(CHAIN_ID, REPLICATED[:-1] + b"\xff"),
        variants.NO_CONTRACT,
    ),
    Attack(
        "replay from another chain",
        ("from another chain",),
        CONTEXT,
        _elsewhere(CHAIN_ID + 1, REPLICATED),
        variants.NO_CHAIN,
    ),
    Attack(
        "malleated signature",
        ("malleates",),
        "the commit binds S, and of a signature's two forms one is taken",
        _workers(workers.malleates),
        variants.EITHER_SIGNATURE,
        succeeds=is_taken,
    ),
    Attack(
        "second commit",
        ("commits again",),
        "one commit for each slot and attempt",
        _workers(workers.commits_again),
        variants.COMMITS_AGAIN,
    ),
    Attack(
        "late commit",
        ("commits late",),
        "no commit once reveals have begun",
        _workers(workers.commits_late),
        variants.COMMITS_LATE,
    ),
    Attack(
        "late reveal",
        ("reveals late",),
        "no reveal once the round is closed",
        _workers(workers.reveals_late),
        variants.REVEALS_LATE,
    ),
    Attack(
        "withhold the reveal",
        ("withholds",),
        "who committed and did not reveal forfeits, in a void round too",
        _workers(workers.withholds, workers.withholds, honest=2, terms=FOUR_OF_FIVE),
        variants.WITHHOLDING_IS_FREE,
        succeeds=costs_nothing,
    ),
    Attack(
        "reveal without data",
        ("reveals without data",),
        CANNOT_FETCH,
        _workers(workers.reveals_without_data, validators=4),
        variants.MISSING_IS_TRUE,
    ),
    Attack(
        "ciphertext that nobody can fetch",
        ("serves nobody",),
        CANNOT_FETCH,
        _workers(workers.serves_nobody, validators=4),
        variants.MISSING_IS_TRUE,
    ),
    Attack("random weights", ("random weights",), VOTE, _workers(UPDATE("its own")), variants.EVERY_UPDATE_PAID),
    Attack(
        "the last weights",
        ("last weights",),
        VOTE,
        _workers(UPDATE("the last weights")),
        variants.EVERY_UPDATE_PAID,
    ),
    Attack("one step instead of all", ("one step",), VOTE, _workers(UPDATE("one step")), variants.EVERY_UPDATE_PAID),
    Attack(
        "collusion below the majority",
        ("colluder 1", "colluder 2"),
        "the majority is one of all slots drawn, so who comes first wins nothing by that",
        _workers(COLLUDER, COLLUDER),
        variants.FIRST_TWO_WIN,
    ),
    Attack(
        "run in front of every call",
        ("runs in front",),
        "what only one may call is bound to the caller, what anybody may call does the same whoever calls",
        lambda: Cast(foes=[workers.runs_in_front], terms=replace(TERMS, slots=5)),
        variants.ANYBODYS_MASK,
    ),
    Attack(
        "a server that does not pay",
        ("does not pay",),
        "a round with a winner can only be finalised, by anybody after the grace",
        _owned(owners.refuses_to_pay),
        variants.OWNER_VOIDS,
        succeeds=costs_nothing,
        loses=REWARD,
    ),
    Attack(
        "a server that changes its mind",
        ("changes its mind",),
        "the open round's rewards are set aside when it opens; cancelling ends the job after it",
        _owned(owners.changes_its_mind),
        variants.CANCEL_AT_ONCE,
        succeeds=costs_nothing,
        loses=REWARD,
    ),
    Attack(
        "an unusable job: another base",
        ("posts what cannot be done",),
        DECLINE,
        _owned(owners.lets_everything_lie, base=bytes(32), terms=BRIEF),
        variants.ANY_JOB_TAKEN,
        succeeds=robs,
        loses=0,
    ),
    Attack(
        "an unusable job: another size",
        (),
        DECLINE,
        _owned(owners.lets_everything_lie, update_size=SIZE + 1, terms=BRIEF),
        variants.ANY_JOB_TAKEN,
        succeeds=robs,
        loses=0,
    ),
    Attack(
        "a server that sees its own job through",
        ("hires itself", "own worker 1", "own worker 2", "own worker 3", "own worker 4"),
        "forfeited stakes are burned, so the stakes of honest workers are nothing to be had",
        _owned(owners.pays, [COLLUDER] * 3, terms=FIVE),
        variants.FORFEITS_TO_OWNER,
        loses=0,
        pays_honest=False,
    ),
)

# the pool of an honest validator forgets a claim that was refused, so these are shown in a liar's own block, too
PAST_THE_POOL = tuple(each for each in ATTACKS if each.cast().validators == 4)


@dataclass(frozen=True)
class Shown:
    """An attack on one part: where it comes to nothing, and where it succeeds without the defence."""

    name: str
    defence: str
    fails_in: str
    succeeds_in: str
    real: tuple[str, ...] = ()


ELSEWHERE = (
    Shown(
        "a false claim in a validator's own block",
        "no validator votes for a block that lacks a quorum of attestations beside a claim",
        "test_simulated.test_a_validators_own_block_does_not_help_a_false_claim",
        "test_simulated.test_a_validators_own_block_does_not_help_a_false_claim",
    ),
    Shown(
        "another signature, found once M is known",
        "the commit binds S by keccak(S)",
        "test_impersonation.test_a_mask_that_was_found_when_m_was_known_is_not_the_committed_one",
        "test_impersonation.test_a_mask_that_was_found_when_m_was_known_is_not_the_committed_one",
    ),
    Shown(
        "many identities that come first",
        "slots are drawn",
        "test_drawn_slots.test_many_identities_that_come_first_win_no_more_rounds_than_their_share_of_the_draws",
        "test_drawn_slots.test_where_whoever_came_first_holds_the_slots_they_win_them_all",
    ),
    Shown(
        "joining when the next draw is known",
        "nobody joins or leaves between the reveal that decides a round and the draw of the next",
        "test_drawn_slots.test_nobody_joins_to_be_drawn_when_the_next_draw_is_known",
        "test_drawn_slots.test_where_joining_is_possible_at_any_time_a_few_more_identities_choose_the_slots",
    ),
    Shown(
        "terms that lock stakes for years",
        "workers leave a job alone whose terms allow more than locked_s_max",
        "test_roles.test_a_worker_stays_away_from_a_job_whose_owner_could_lock_its_stake_for_longer_than_it_bears",
        "test_roles.test_a_worker_stays_away_from_a_job_whose_owner_could_lock_its_stake_for_longer_than_it_bears",
    ),
    Shown(
        "a call that was signed for another chain",
        "what is signed names the chain",
        "test_foreign_transactions.test_a_payment_on_another_chain_is_none_here_even_in_a_validators_own_block",
        "test_foreign_transactions.test_where_no_node_looks_at_the_chain_it_is_paid_twice",
    ),
    Shown(
        "a copy in front of each function of the contracts",
        "seats, deposits and balances are the caller's; only the owner may cancel or stop",
        "test_front_running.test_a_copy_in_front_earns_nothing_and_takes_nothing_from_the_call_behind_it",
        "test_front_running.test_where_anybody_may_cancel_a_copy_in_front_ends_the_job",
    ),
)
PRICED = (
    Shown(
        "identities that share one honest computation",
        "none: each is paid, the computation was done once",
        "test_simulated.test_identities_that_share_one_honest_computation_earn_a_reward_each_and_no_more",
        "test_simulated.test_identities_that_share_one_honest_computation_earn_a_reward_each_and_no_more",
        ("identity 1", "identity 2"),
    ),
    Shown(
        "identities beyond the majority of a round",
        "the stakes, and the draw",
        "test_simulated.test_identities_beyond_the_majority_win_the_round_and_one_less_lose_all_their_stakes",
        "test_simulated.test_identities_beyond_the_majority_win_the_round_and_one_less_lose_all_their_stakes",
    ),
    Shown(
        "who orders the reveals chooses the draw",
        "none: C(k, (k + 1) / 2) draws to choose from",
        "test_drawn_slots.test_who_orders_the_reveals_chooses_among_as_many_draws_as_there_are_majorities",
        "test_drawn_slots.test_a_reveal_that_is_held_back_until_the_round_is_decided_changes_the_draw_and_is_paid",
    ),
)
