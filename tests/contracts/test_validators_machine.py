"""The contract of the validator set beside its model: any proposals and approvals, by anyone, in any blocks.

Every call succeeds in both with the same events, or is refused by both with the same words. What consensus relies on is
checked besides: one change a block at most, the epochs count up by one, and each change is of one validator.
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import HealthCheck, Phase, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from chain.contracts import bindings as b
from chain.contracts.calls import Call
from chain.contracts.events import Event
from tests.contracts.evm_harness import Evm, Reverted
from tests.contracts.validators_model import Council, Refused
from tests.contracts.world import STRANGER, WORKERS

PEOPLE = (*WORKERS[:6], STRANGER)


class Validators(RuleBasedStateMachine):
    """One to five validators at first, and accounts that come and go."""

    @initialize(count=st.integers(1, 5))
    def genesis(self, count: int) -> None:
        self.evm = Evm(validators=WORKERS[:count])
        self.council = Council(WORKERS[:count])
        self.changes: dict[int, int] = {}  # block -> changes in it

    def both(self, sender: bytes, call: Call, act: Callable[[], list[Event]]) -> None:
        refused = reverted = None
        expected, done = [], []
        try:
            expected = act()
        except Refused as error:
            refused = str(error)
        try:
            logs = self.evm.transact(sender, call).logs
            done = [b.decode(log) for log in logs]
        except Reverted as error:
            reverted, logs = error.reason, ()
        assert reverted == refused
        assert done == expected
        for found in filter(None, map(b.validators_of, logs)):
            self.changes[self.evm.number] = self.changes.get(self.evm.number, 0) + 1
            assert self.changes[self.evm.number] == 1
            epoch, validators = found
            assert epoch == sum(self.changes.values())
            assert list(validators) == self.council.epochs[epoch]
            assert len(set(self.council.epochs[epoch - 1]) ^ set(validators)) == 1
        event(f"{call.data[:4].hex()}: {refused or f'done, {len(done)} events'}")
        if refused is None:
            self.check()

    def check(self) -> None:
        query, council = self.evm.query, self.council
        assert query(b.epoch_view()) == council.epoch
        assert query(b.validators_view()) == tuple(council.validators)
        assert query(b.approvals_needed_view()) == council.needed
        assert query(b.proposals_page_view(0, b.PROPOSALS_PAGE_MAX)) == council.proposals_page()

    # mostly validators: strangers are refused the same way each time
    def someone(self, data: st.DataObject) -> bytes:
        return data.draw(st.sampled_from((*self.council.validators * 3, *PEOPLE)))

    @rule(data=st.data(), subject=st.sampled_from((*PEOPLE, bytes(20))), likely=st.sampled_from((True,) * 9 + (False,)))
    def propose(self, data: st.DataObject, subject: bytes, likely: bool) -> None:
        self.send_propose(data, subject, likely)

    def send_propose(self, data: st.DataObject, subject: bytes, likely: bool) -> None:
        sender, admit = self.someone(data), (subject not in self.council.validators) == likely
        number = self.evm.number
        self.both(sender, b.propose(subject, admit), lambda: self.council.propose(number, sender, subject, admit))

    @rule(data=st.data(), id_=st.integers(0, 40))
    def approve(self, data: st.DataObject, id_: int) -> None:
        ids = [change.id for change in self.council.open]
        self.send_approve(self.someone(data), data.draw(st.sampled_from([*ids * 3, id_])))

    @rule(data=st.data(), subject=st.sampled_from(PEOPLE), most=st.integers(1, 5))
    def agree(self, data: st.DataObject, subject: bytes, most: int) -> None:
        """As changes come about: somebody proposes, most approve, in a block of its own or not."""
        self.evm.number += data.draw(st.sampled_from((1, 1, 1, 0)))
        self.send_propose(data, subject, likely=True)
        id_ = self.council.proposals
        for validator in tuple(self.council.validators[:most]):
            self.send_approve(validator, id_)

    # the same again: hypothesis picks rules evenly, and this one goes deepest
    agree_again = agree

    def send_approve(self, sender: bytes, id_: int) -> None:
        number = self.evm.number
        self.both(sender, b.approve(id_), lambda: self.council.approve(number, sender, id_))

    @rule()
    def next_block(self) -> None:
        self.evm.number += 1


TestValidators = Validators.TestCase
TestValidators.settings = settings(
    max_examples=20,
    stateful_step_count=30,
    deadline=None,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
