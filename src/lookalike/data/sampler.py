"""Who sees which row when, and by which chance: pure functions of (seed, epoch, row).

Nothing here depends on the number of workers or threads, on the position from which an epoch is
resumed, or on the version of NumPy: only raw generators are used, whose streams NumPy and Python
promise to keep.
"""

from __future__ import annotations

import random

import numpy as np

_ORDER_STREAM = 1


def epoch_order(num: int, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch visits `num` rows: (num,) int64, a permutation."""
    generator = np.random.PCG64(np.random.SeedSequence((seed, epoch, _ORDER_STREAM)))
    return np.argsort(generator.random_raw(num), kind="stable").astype(np.int64)


def global_batch(num: int, batch_size: int) -> int:
    """The number of images in a step of all workers: `batch_size`, or the whole set if smaller."""
    return min(num, batch_size)


def steps_per_epoch(num: int, batch_size: int) -> int:
    """Full global batches in an epoch; the rest of the rows waits for another epoch's order."""
    return num // global_batch(num, batch_size)


def row_rng(seed: int, epoch: int, row: int, attempt: int = 0) -> random.Random:
    """The source of all chance about one row in one epoch.

    Args:
        seed: of the run, at least 0.
        epoch: from 0.
        row: of the catalog.
        attempt: 0, or the number of the substitute that stands in for an image that failed.
    """
    # The fields do not overlap (40 bits of row, 8 of attempt, 48 of epoch), so neither do streams.
    return random.Random((seed << 96) | (epoch << 48) | (row << 8) | attempt)
