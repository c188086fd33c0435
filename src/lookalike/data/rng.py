"""Random numbers of the training data: pure functions of (seed, epoch, row).

Nothing here depends on the number of workers or threads, on the position from which an epoch is
resumed, or on the version of NumPy: only raw generators are used, whose streams NumPy and Python
promise to keep.
"""

from __future__ import annotations

import random

import numpy as np


class EpochRng:
    """The random numbers of one epoch; each use of (seed, epoch) has its own stream."""

    def __init__(self, seed: int, epoch: int, stream: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence((seed, epoch, stream)))

    def keys(self, num: int) -> np.ndarray:
        """(num,) uint64, to sort by."""
        return self._bits.random_raw(num)

    def permutation(self, num: int) -> np.ndarray:
        """The numbers below `num` in a random order: (num,) int64."""
        return np.argsort(self.keys(num), kind="stable").astype(np.int64, copy=False)

    def below(self, limit: int) -> int:
        """A whole number from 0 to `limit` - 1, for limits far below 2^64."""
        return int(self._bits.random_raw()) % limit


def row_rng(
    seed: int, epoch: int, row: int, attempt: int = 0, occurrence: int = 0
) -> random.Random:
    """The random numbers of one row in one epoch, which had it `occurrence` times before.

    `attempt` is 0, or the number of the substitute for an image that failed.
    """
    # The fields do not overlap (40 bits of row, 8 of attempt, 24 each of epoch and occurrence),
    # so neither do streams.
    return random.Random((seed << 96) | (occurrence << 72) | (epoch << 48) | (row << 8) | attempt)


def occurrences(rows: np.ndarray) -> np.ndarray:
    """The number of equal elements before each element of `rows` (n,): (n,) int64."""
    order = np.argsort(rows, kind="stable")
    arranged = rows[order]
    fresh = np.ones(len(rows), bool)
    fresh[1:] = arranged[1:] != arranged[:-1]
    starts = np.flatnonzero(fresh)
    lengths = np.diff(np.append(starts, len(rows)))
    found = np.empty(len(rows), np.int64)
    found[order] = np.arange(len(rows)) - np.repeat(starts, lengths)
    return found
