"""One thread for torch and numpy: on a busy machine threads mostly wait for each other, and no result depends on it."""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)
