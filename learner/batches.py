"""Which samples a step sees: a pure function of the batch seed, the training set's size and the manifest's numbers.

Or what the job's own list says (learner.batch_list).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from learner import batch_list
from learner.errors import InvalidBatches
from learner.exact import philox
from learner.manifest import Manifest


def chosen(manifest: Manifest, train: int, batch_seed: bytes, row: bytes | None) -> Iterator[Tensor]:
    """The batches of a round, int64 [batch_size] each.

    Args:
        train: how many samples there are for training.
        row: the round's row of the manifest's list, if it has one; the seed says nothing then.
    Raises:
        InvalidBatches: the row is missing or unasked for, of another size, or has an index that no sample has.
    """
    steps, batch_size = manifest.steps, manifest.batch_size
    if (row is None) != (manifest.listed is None):
        raise InvalidBatches("batches: " + ("are missing" if row is None else "were not asked for"))
    if row is None:
        return batches(batch_seed, train, batch_size, steps)
    indices = batch_list.indices_of(row, steps, batch_size, train)
    return iter(torch.tensor(indices, dtype=torch.int64).view(steps, batch_size))


def batches(batch_seed: bytes, train: int, batch_size: int, steps: int) -> Iterator[Tensor]:
    """Yield `steps` batches of sample indices, int64 [batch_size] each.

    Epoch e is a permutation of 0..train-1 from the stream "batches/e", cut into whole batches; what is left over is
    dropped, and the next epoch starts a new permutation.

    Args:
        batch_seed: 32 bytes.
        train: at least batch_size.
    """
    per_epoch = train // batch_size
    for step in range(steps):
        epoch, place = divmod(step, per_epoch)
        if place == 0:
            order = philox.permutation(batch_seed, f"batches/{epoch}", train)
        yield order[place * batch_size : (place + 1) * batch_size]
