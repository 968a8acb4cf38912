"""How the views above the final one ended, as far as certificates tell."""

from __future__ import annotations

from typing import Final

from chain.consensus_types import CERTIFICATES_ANSWERED_MAX
from chain.types import FINALISE, NOTARISE, Block, Certificate

_NEWEST: Final = 2  # the last view's notarisation and its skip


class Views:
    """The certificates of one epoch, above its final block.

    Attributes:
        final, certificate: the newest final block and what made it so (None for genesis).
        notarised, skipped: certificates by view; a view may have both.
        finality: the newest finalisation that still waits for bodies.
        ended: the newest view known to have ended.
    """

    def __init__(self, epoch: int, final: Block, certificate: Certificate | None) -> None:
        self.epoch, self.final, self.certificate = epoch, final, certificate
        self.notarised: dict[int, Certificate] = {}
        self.skipped: dict[int, Certificate] = {}
        self.finality: Certificate | None = None
        self.ended = self.final_view

    @property
    def final_view(self) -> int:
        """0 if the final block belongs to an earlier epoch."""
        return self.final.view if self.final.epoch == self.epoch else 0

    def learn(self, certificate: Certificate) -> bool:
        """Whether it is new, and one of those that end a view."""
        if certificate.epoch != self.epoch or certificate.view <= self.final_view:
            return False
        self.ended = max(self.ended, certificate.view)
        if certificate.kind == FINALISE:
            if self.finality is None or certificate.view > self.finality.view:
                self.finality = certificate
            return False
        ends = self.notarised if certificate.kind == NOTARISE else self.skipped
        return ends.setdefault(certificate.view, certificate) is certificate

    def finalise(self, block: Block, certificate: Certificate) -> None:
        self.final, self.certificate, self.finality = block, certificate, None
        for certificates in (self.notarised, self.skipped):
            for view in [view for view in certificates if view <= block.view]:
                del certificates[view]

    def newest(self) -> tuple[int, bytes]:
        """View and digest of the newest notarised block, or of the final one."""
        view = max(self.notarised, default=None)
        return (self.final_view, self.final.digest) if view is None else (view, self.notarised[view].digest)

    def notarised_in(self, digest: bytes) -> int | None:
        """The view of a block that is notarised or the final one, else None."""
        if digest == self.final.digest:
            return self.final_view
        return next((view for view, each in self.notarised.items() if each.digest == digest), None)

    def has_ended(self, view: int) -> bool:
        return view in self.notarised or view in self.skipped

    def all_skipped(self, after: int, before: int) -> bool:
        return all(view in self.skipped for view in range(after + 1, before))

    def unproven(self) -> int:
        """The first view of which no certificate here says that it ended."""
        view = (self.final_view if self.finality is None else self.finality.view) + 1
        while self.has_ended(view):
            view += 1
        return view

    def above(self, view: int, final_view: int) -> tuple[Certificate, ...]:
        """For a peer that can prove all views before `view` ended: finality, then the oldest it lacks, the newest."""
        finality = [each for each in (self.certificate, self.finality) if each is not None and each.epoch == self.epoch]
        later = [each for each in (*self.notarised.values(), *self.skipped.values()) if each.view >= view]
        later.sort(key=lambda each: each.view)
        oldest = CERTIFICATES_ANSWERED_MAX - _NEWEST
        return (*(c for c in finality if c.view > final_view), *later[:oldest], *later[oldest:][-_NEWEST:])

    def reasons(self, block: Block) -> tuple[Certificate, ...]:
        """What a proposal shows: its parent's certificate and those of the views skipped in between, if here."""
        parent_view = self.notarised_in(block.parent)
        if parent_view is None:
            return ()
        parent = self.certificate if parent_view == self.final_view else self.notarised[parent_view]
        skipped = [self.skipped[view] for view in range(parent_view + 1, block.view) if view in self.skipped]
        return (*([] if parent is None or parent.epoch != self.epoch else [parent]), *skipped)
