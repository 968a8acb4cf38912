"""The contract of the validator set in plain Python: what a call does, or why it is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chain.contracts import bindings as b
from chain.contracts.events import Event

VALIDATORS_MAX = 100
OPEN_EACH_MAX = 8


class Refused(Exception):
    """The contract would revert with this string."""


def require(condition: bool, reason: str) -> None:
    if not condition:
        raise Refused(f"validators: {reason}")


@dataclass
class Change:
    id: int
    subject: bytes
    admit: bool
    proposer: bytes
    approvers: set[bytes]


class Council:
    """The validators of the present epoch, and the proposals that are open in it."""

    def __init__(self, validators: Sequence[bytes]) -> None:
        self.validators = list(validators)
        self.epoch = 0
        self.proposals = 0  # ever made
        self.open: list[Change] = []
        self.changed_in = 0
        self.epochs = [list(validators)]

    @property
    def needed(self) -> int:
        return next(votes for votes in range(len(self.validators) + 1) if 3 * votes > 2 * len(self.validators))

    def propose(self, number: int, sender: bytes, subject: bytes, admit: bool) -> list[Event]:
        """Args: number: of the block."""
        require(sender in self.validators, "only a validator may do this")
        if admit:
            require(subject != bytes(20), "the zero address cannot be a validator")
            require(subject not in self.validators, "it is a validator already")
            require(len(self.validators) < VALIDATORS_MAX, "there are 100 already")
        else:
            require(subject in self.validators, "it is no validator")
            require(len(self.validators) > 1, "the last one cannot be removed")
        for change in self.open:
            require(
                (change.subject, change.admit) != (subject, admit), f"proposed already, approve proposal {change.id}"
            )
        made = sum(change.proposer == sender for change in self.open)
        require(made < OPEN_EACH_MAX, "8 open proposals of one validator at most")
        require(number != self.changed_in, "the epoch has just ended")
        self.proposals += 1
        change = Change(self.proposals, subject, admit, sender, set())
        self.open.append(change)
        return [b.Proposed(change.id, subject, sender, admit), *self._approve(number, sender, change)]

    def approve(self, number: int, sender: bytes, id_: int) -> list[Event]:
        require(sender in self.validators, "only a validator may do this")
        require(1 <= id_ <= self.proposals, "there is no such proposal")
        change = next((each for each in self.open if each.id == id_), None)
        if change is None:
            raise Refused("validators: the proposal's epoch has ended")
        require(sender not in change.approvers, "you have approved it already")
        return self._approve(number, sender, change)

    def _approve(self, number: int, sender: bytes, change: Change) -> list[Event]:
        change.approvers.add(sender)
        approved = b.Approved(change.id, sender, len(change.approvers))
        if len(change.approvers) < self.needed:
            return [approved]
        if change.admit:
            self.validators.append(change.subject)
        else:
            self.validators.remove(change.subject)
        self.epoch, self.open, self.changed_in = self.epoch + 1, [], number
        self.epochs.append(list(self.validators))
        return [approved, b.ValidatorsChanged(self.epoch, tuple(self.validators))]

    def proposals_page(self) -> tuple[b.Proposal, ...]:
        return tuple(
            b.Proposal(
                change.id,
                change.subject,
                change.admit,
                change.proposer,
                sum(1 << self.validators.index(each) for each in change.approvers),
            )
            for change in self.open
        )
