"""Who attacks the real network: every game is a job of its own, with the three honest workers and some adversaries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from eth_hash.auto import keccak

from tests.adversaries import owners, workers
from tests.adversaries.owners import Offer
from tests.adversaries.program import Program

REWARD_WEI: Final = 10**16
STAKE_WEI: Final = 10**17
REVEAL_WINDOW_S: Final = 15  # what the network waits for at its end, since some never reveal
COMMIT_WINDOW_S: Final = 20  # likewise, since one waits with its commit


@dataclass(frozen=True)
class Game:
    """
    Attributes:
        foes: by name, the program of each identity.
        terms: of the job, besides those that all share.
        owner: posts the job, by its name, if not the honest server does.
        bent: what it posts otherwise than it should.
        together: whether the identities are counted as one purse.
    """

    foes: dict[str, Program] = field(default_factory=dict)
    terms: dict[str, object] = field(default_factory=dict)
    owner: tuple[str, Callable[[Offer], Program]] | None = None
    bent: dict[str, object] = field(default_factory=dict)
    together: bool = False

    @property
    def players(self) -> tuple[str, ...]:
        return (*self.foes, *([] if self.owner is None else [self.owner[0]]))

    @property
    def job_terms(self) -> dict[str, object]:
        """With a slot for everybody, and honest workers in the majority unless said otherwise."""
        everybody = 3 + len(self.foes)
        slots = everybody + (everybody + 1) % 2
        return {
            "reward": "0.01 flt", "stake": "0.1 flt", "slots": slots, "workers_min": everybody, "rounds_max": 1,
            "attempts_max": 1, "commit_window_s": 90, "reveal_window_s": REVEAL_WINDOW_S, "last_call_s": 2,
            "grace_s": 10,
        } | self.terms  # fmt: skip


GAMES: Final = (
    Game({"copies a reveal": workers.copies_a_reveal, "copies a ciphertext": workers.copies_a_ciphertext}),
    Game({"copies a commit": workers.copies_a_commit, "last weights": workers.with_update("the last weights")}),
    Game({"malleates": workers.malleates, "commits again": workers.commits_again}),
    Game({"withholds": workers.withholds, "reveals without data": workers.reveals_without_data}),
    Game({"serves nobody": workers.serves_nobody, "random weights": workers.with_update("its own")}),
    Game({"solves for a key": workers.solves_for_a_key, "one step": workers.with_update("one step")}),
    Game({f"colluder {n}": workers.with_update("what colluders agreed on") for n in (1, 2)}),
    Game({f"identity {n}": workers.with_update("the work's result") for n in (1, 2)}),
    Game({"reveals late": workers.reveals_late, "from another job": workers.reuses_a_mask_of("another job")}),
    Game({"commits late": workers.commits_late}, {"commit_window_s": COMMIT_WINDOW_S}),
    Game({"from another round": workers.reuses_a_mask_of("another round")}, {"workers_min": 3, "rounds_max": 2}),
    Game({f"from another {place}": workers.reuses_a_mask_of("elsewhere") for place in ("chain", "contract")}),
    Game({"runs in front": workers.runs_in_front}, {"workers_min": 3}),
    Game(owner=("does not pay", owners.refuses_to_pay)),
    Game(owner=("changes its mind", owners.changes_its_mind)),
    Game(owner=("posts what cannot be done", owners.lets_everything_lie), bent={"base": bytes(32)}),
    Game(
        {f"own worker {n}": workers.with_update("what colluders agreed on") for n in (1, 2, 3, 4)},
        owner=("hires itself", owners.pays),
        together=True,
    ),
)


def key_of(name: str) -> bytes:
    """The secret of one identity of the adversary."""
    return keccak(b"adversary " + name.encode())


# why what decides an attack comes to nothing; of the others everything is taken, and is wrong
CLAIM_REFUSED: Final = {"copies a reveal", "copies a ciphertext"}
REVERTED: Final = {
    "copies a commit", "solves for a key", "malleates", "commits again", "commits late", "reveals late",
    "runs in front", "does not pay",
}  # fmt: skip


def job_of(name: str) -> int:
    """The number of the job that the honest server posts for the game in which somebody plays."""
    return next(number for number, game in enumerate(GAMES, start=1) if name in game.foes)
