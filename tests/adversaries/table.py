"""Every attack that is known: what defends against it, flnode without that defence, and the tests that show both.

`tests/adversaries/test_simulated.py` plays each against the defence and against the variant, from a seed;
`tests/adversaries/test_network.py` plays the programs against real nodes. What is not played in the simulator names
the test that shows it.
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


def robs(played: Played) -> bool:
    """Honest workers lose stakes."""
    return played.forfeited > 0


@dataclass(frozen=True)
class Attack:
    """
    Attributes:
        defence: what of flnode stands against it.
        cast: who plays.
        variant: flnode without the defence.
        succeeds: what the attack is after, and reaches in the variant only.
        loses: wei that it costs at least, where the defence is there.
        pays_honest: whether honest workers earn in every settled round in which they hold a slot, and lose nothing.
    """

    name: str
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

ATTACKS: tuple[Attack, ...] = (
    Attack("copy an earlier reveal", CLAIM, _workers(workers.copies_a_reveal, validators=4), variants.CLAIMS_UNCHECKED),
    Attack(
        "copy the ciphertext", CLAIM, _workers(workers.copies_a_ciphertext, validators=4), variants.CLAIMS_UNCHECKED
    ),
    Attack(
        "copy a whole commit",
        "S is the committer's own signature over its own ctx",
        _workers(workers.copies_a_commit),
        variants.ANYBODYS_MASK,
    ),
    Attack(
        "solve for a key",
        "the commit binds S by keccak(S), and S is a signature, not the pad",
        _workers(workers.solves_for_a_key),
        variants.ORIGINAL_SCHEME,
    ),
    Attack(
        "replay from another round",
        CONTEXT,
        _workers(workers.reuses_a_mask_of("another round"), terms=replace(TERMS, slots=5, rounds_max=2)),
        variants.NO_ROUND,
    ),
    Attack(
        "replay from another job",
        CONTEXT,
        _workers(workers.reuses_a_mask_of("another job"), jobs=2),
        variants.NO_JOB,
    ),
    Attack(
        "replay from another contract", CONTEXT, _elsewhere(CHAIN_ID, REPLICATED[:-1] + b"\xff"), variants.NO_CONTRACT
    ),
    Attack("replay from another chain", CONTEXT, _elsewhere(CHAIN_ID + 1, REPLICATED), variants.NO_CHAIN),
    Attack(
        "second commit", "one commit for each slot and attempt", _workers(workers.commits_again), variants.COMMITS_AGAIN
    ),
    Attack("late commit", "no commit once reveals have begun", _workers(workers.commits_late), variants.COMMITS_LATE),
    Attack("late reveal", "no reveal once the round is closed", _workers(workers.reveals_late), variants.REVEALS_LATE),
    Attack(
        "withhold the reveal",
        "who committed and did not reveal forfeits, in a void round too",
        _workers(workers.withholds, workers.withholds, honest=2, terms=FOUR_OF_FIVE),
        variants.WITHHOLDING_IS_FREE,
        succeeds=costs_nothing,
    ),
    Attack(
        "reveal without data",
        CLAIM + "; what cannot be fetched is unknown, never true",
        _workers(workers.reveals_without_data, validators=4),
        variants.MISSING_IS_TRUE,
    ),
    Attack(
        "ciphertext that nobody can fetch",
        CLAIM + "; what cannot be fetched is unknown, never true",
        _workers(workers.serves_nobody, validators=4),
        variants.MISSING_IS_TRUE,
    ),
    Attack(
        "run in front of every call",
        "what only one may call is bound to the caller, what anybody may call does the same whoever does",
        lambda: Cast(foes=[workers.runs_in_front], terms=replace(TERMS, slots=5)),
        variants.ANYBODYS_MASK,
    ),
    Attack("random weights", VOTE, _workers(workers.with_update("its own")), variants.EVERY_UPDATE_PAID),
    Attack("the last weights", VOTE, _workers(workers.with_update("the last weights")), variants.EVERY_UPDATE_PAID),
    Attack("one step instead of all", VOTE, _workers(workers.with_update("one step")), variants.EVERY_UPDATE_PAID),
    Attack(
        "collusion below the majority",
        "the majority is one of all slots drawn, so who comes first wins nothing by that",
        _workers(COLLUDER, COLLUDER),
        variants.FIRST_TWO_WIN,
    ),
    Attack(
        "a server that does not pay",
        "a round with a winner can only be finalised, by anybody after the grace",
        _owned(owners.refuses_to_pay),
        variants.OWNER_VOIDS,
        succeeds=costs_nothing,
        loses=REWARD,
    ),
    Attack(
        "a server that changes its mind",
        "the open round's rewards are set aside when it opens; cancelling ends the job after it",
        _owned(owners.changes_its_mind),
        variants.CANCEL_AT_ONCE,
        succeeds=costs_nothing,
        loses=REWARD,
    ),
    Attack(
        "an unusable job: another base",
        "workers compute base and size from the manifest before they enrol, and decline",
        _owned(owners.lets_everything_lie, base=bytes(32), terms=BRIEF),
        variants.ANY_JOB_TAKEN,
        succeeds=robs,
        loses=0,
    ),
    Attack(
        "an unusable job: another size",
        "workers compute base and size from the manifest before they enrol, and decline",
        _owned(owners.lets_everything_lie, update_size=SIZE + 1, terms=BRIEF),
        variants.ANY_JOB_TAKEN,
        succeeds=robs,
        loses=0,
    ),
    Attack(
        "a server that sees its own job through",
        "forfeited stakes are burned, so the stakes of honest workers are nothing to be had",
        _owned(owners.pays, [COLLUDER] * 3, terms=FIVE),
        variants.FORFEITS_TO_OWNER,
        loses=0,
        pays_honest=False,
    ),
)

# the pool of an honest validator forgets a claim that was refused, so these are shown in a liar's own block, too
PAST_THE_POOL = tuple(each for each in ATTACKS if each.cast().validators == 4)
