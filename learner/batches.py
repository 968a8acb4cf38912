"""Which samples a step sees: a pure function of the batch seed, the training set's size and the manifest's numbers."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from learner.exact import philox


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
