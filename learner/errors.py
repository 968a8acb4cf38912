"""What can be wrong with a job's inputs. Each error has a `kind`, the word that crosses the process boundary."""

from __future__ import annotations

from typing import ClassVar


class JobError(Exception):
    """The job cannot be done as asked; asking again with the same inputs fails again."""

    kind: ClassVar[str] = "job"


class InvalidManifest(JobError):
    """A manifest that is malformed or out of bounds.

    Attributes:
        field: dotted name of the offending field, for example "model.sizes[1]"; empty for the whole manifest.
        reason: what is wrong with it.
    """

    kind = "manifest"

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"manifest: {field}: {reason}" if field else f"manifest: {reason}")
        self.field = field
        self.reason = reason


class InvalidState(JobError):
    """Bytes that are not the canonical form of a model state, or not of the state that the manifest describes."""

    kind = "state"


class InvalidDataset(JobError):
    """Bytes that are not a canonical dataset, or a dataset that does not fit the manifest."""

    kind = "dataset"


class InvalidBatches(JobError):
    """Bytes that are not a list of batches, or one that does not fit the job."""

    kind = "batches"


class Diverged(JobError):
    """A number left the finite range: the learning rate is too high for this job."""

    kind = "diverged"


class Stopped(Exception):
    """The caller's `should_stop` said so; carries no blame and leaves nothing behind."""
