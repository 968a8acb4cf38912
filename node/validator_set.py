"""The validators as the API shows them, and this node's part in changing them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Final, TypeVar

from chain.contracts import bindings as b
from chain.evm import ExecutionFailed, Reverted
from chain.reads import ChainReads
from chain.types import Vote
from node.api import schema
from node.api.backend import BackendError

T = TypeVar("T")

# The contract is asked at the finalised block, a transaction comes after it.
NOT_FOR_LONG: Final = "validators: the epoch has just ended"


@dataclass
class ValidatorSet:
    """See the module.

    Attributes:
        me: this node's account.
        connected: the accounts of the validators that are connected to this node.
        send: (tag, call) -> once it is final, or the caller no longer waits. Raises BackendError if it failed.
    """

    chain: ChainReads
    me: bytes
    connected: Collection[bytes]
    send: Callable[[str, b.Call], Awaitable[schema.Submitted]]

    def show(self) -> schema.Validators:
        """As of the finalised head."""
        validators = self._ask(b.validators_view())
        return schema.Validators(
            epoch=self._ask(b.epoch_view()),
            quorum=self.chain.epochs.present.quorum,
            validators=[
                schema.ValidatorInfo(_hex(each), each == self.me or each in self.connected, each == self.me)
                for each in validators
            ],
            proposals=self._proposals(validators),
            evidence=[self._equivocation(*pair) for pair in self.chain.evidence()],
        )

    async def propose(self, subject: bytes, admit: bool) -> schema.Submitted:
        """Raises BackendError."""
        what = f"{'admit' if admit else 'remove'} {_hex(subject)}"
        return await self._change(what, b.propose(subject, admit))

    async def approve(self, proposal: int) -> schema.Submitted:
        """Raises BackendError."""
        return await self._change(f"approve proposal {proposal}", b.approve(proposal))

    async def _change(self, what: str, call: b.Call) -> schema.Submitted:
        if self.me not in self._ask(b.validators_view()):
            epoch = self._ask(b.epoch_view())
            raise BackendError(
                f"cannot {what}: this node's account {_hex(self.me)} is no validator of epoch {epoch}, "
                "and only validators propose and approve"
            )
        self._check(what, call)
        try:
            return await self.send(f"validators: {what}", call)
        except BackendError:
            self._check(what, call)  # what others did meanwhile may be why
            raise

    def _check(self, what: str, call: b.Call) -> None:
        """Raises BackendError with the contract's reason if the call would be refused now."""
        try:
            self.chain.call(call.to, call.data, sender=self.me, gas=call.gas)
        except Reverted as error:
            if error.reason != NOT_FOR_LONG:
                raise BackendError(f"cannot {what}: {error.reason.removeprefix('validators: ')}") from None
        except ExecutionFailed as error:
            raise BackendError(f"cannot {what}: {error}") from None

    def _equivocation(self, first: Vote, second: Vote) -> schema.Equivocation:
        pair = first, second
        return schema.Equivocation(
            epoch=first.epoch,
            view=first.view,
            validator=_hex(self.chain.epochs[first.epoch].validators[first.voter]),
            kinds=[each.kind for each in pair],
            digests=[_hex(each.digest) for each in pair],
            signatures=[_hex(each.signature) for each in pair],
        )

    def _proposals(self, validators: tuple[bytes, ...]) -> list[schema.Proposal]:
        found: list[schema.Proposal] = []
        needed = self._ask(b.approvals_needed_view())
        while page := self._ask(b.proposals_page_view(len(found), b.PROPOSALS_PAGE_MAX)):
            for each in page:
                approvers = [account for place, account in enumerate(validators) if each.approvers >> place & 1]
                found.append(
                    schema.Proposal(
                        id=each.id,
                        subject=_hex(each.subject),
                        admit=each.admit,
                        proposer=_hex(each.proposer),
                        approvals=list(map(_hex, approvers)),
                        needed=needed,
                        approved=self.me in approvers,
                    )
                )
        return found

    def _ask(self, query: b.Query[T]) -> T:
        return query.decode(self.chain.call(query.to, query.data))


def _hex(data: bytes) -> str:
    return "0x" + data.hex()
