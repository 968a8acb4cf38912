"""Where a validator may vote again after it has lost the log of its votes.

It had voted in a view only with a certificate that ended the view before. Of any quorum of the others, one is honest
and signed that certificate, in that view. So if a quorum of others says in which views they are, no forgotten vote was
in a view more than one above theirs: that view is the *floor*, and votes are cast above it only. A claim counts once a
certificate shows that somebody may have come so far. If a quorum knows of nothing beyond the first view of the first
epoch, the network is new, and nothing was lost.

Where a certificate takes all validators, no forgotten vote makes a second one, and votes are cast at once. But that the
log is whole from here on is known only when the others are heard of in this epoch: a node without its log passes
through epochs of old, on its way to one in which it may have voted.
"""

from __future__ import annotations


class Floor:
    """
    Args:
        view: the floor, if it is known; None if the votes of earlier runs are lost.
    """

    def __init__(self, epoch: int, validators: int, quorum: int, view: int | None) -> None:
        self._epoch, self._heard_min = epoch, min(quorum, validators - 1)
        self._entered: dict[int, int] = {}  # the view that each other validator says it is in
        self._lost = view is None and validators > 1
        self.view = 0 if quorum == validators else view

    def entered(self, validator: int, view: int) -> None:
        self._entered[validator] = max(view, self._entered.get(validator, 0))

    def find(self, ended: int) -> bool:
        """Whether the floor has just become known, for good: the log is whole from here on.

        Args:
            ended: the newest view that a certificate here says has ended.
        """
        claims = [view for view in self._entered.values() if view <= ended + 1]
        if not self._lost or len(claims) < self._heard_min:
            return False
        self._lost = False
        if self.view is None:
            new = (self._epoch, ended, max(claims)) == (0, 0, 1)
            self.view = 0 if new else max(claims) + 1
        return True
