"""Which validators a block, a vote or a certificate is judged by: the epochs of one chain. Pure bookkeeping.

An epoch ends with the block in which the validators' contract logs a new list, its *last block*. The blocks that may
follow in the same epoch are empty and serve only to make the last one final; they are no part of the chain. The next
epoch's first block follows the last block itself, in view 1 or later, and is made and judged by the new list.

    ... ── b (epoch 0) ── last block ── c (epoch 1, view 1) ── ...
                               └── empty (epoch 0) ── empty: a certificate of this one makes the last block final
"""

from __future__ import annotations

from chain.certificate import quorum
from chain.claims import verify_attestation
from chain.genesis import Network
from chain.types import Attestation, ChainError, Epoch, InvalidVote


class UnknownEpoch(ChainError):
    """Its list of validators is not known here (yet)."""

    def __init__(self, number: int) -> None:
        super().__init__(f"epoch {number} is not known here")


class Epochs:
    """All epochs up to the one that blocks after the finalised head belong to."""

    def __init__(self, network: Network, later: tuple[Epoch, ...] = ()) -> None:
        """`later`: the second epoch and those after it, ascending, without a gap."""
        self._quorum_ratio = network.quorum or 0.0
        self._epochs = [self._epoch(0, network.validator_addresses, 1), *later]

    @property
    def present(self) -> Epoch:
        return self._epochs[-1]

    def __getitem__(self, number: int) -> Epoch:
        """Raises UnknownEpoch."""
        if not 0 <= number < len(self._epochs):
            raise UnknownEpoch(number)
        return self._epochs[number]

    def of_height(self, height: int) -> Epoch:
        """The epoch of a block of the finalised chain, or of the next one."""
        return next(epoch for epoch in reversed(self._epochs) if epoch.first <= height or epoch.number == 0)

    def is_present(self, attestation: Attestation) -> bool:
        """Whether a present validator signed it; False if one of the epoch before did, whose word comes too late.

        Raises:
            InvalidVote: neither.
        """
        try:
            verify_attestation(attestation, self.present.validators)
        except InvalidVote:
            if self.present.number == 0:
                raise
            verify_attestation(attestation, self._epochs[-2].validators)
            return False
        return True

    def next(self, validators: tuple[bytes, ...], first: int) -> Epoch:
        """What would follow the present epoch with these validators."""
        return self._epoch(len(self._epochs), validators, first)

    def append(self, epoch: Epoch) -> None:
        assert epoch.number == len(self._epochs)
        self._epochs.append(epoch)

    def _epoch(self, number: int, validators: tuple[bytes, ...], first: int) -> Epoch:
        return Epoch(number, validators, quorum(len(validators), self._quorum_ratio), first)
