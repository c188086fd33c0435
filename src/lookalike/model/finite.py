"""The check that every vector passes before a command uses, writes or returns it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from lookalike import storage
from lookalike.errors import ModelError

_NAMED = 5


class NotFiniteError(ModelError):
    """A model gives vectors that hold NaN or infinity."""


def require_finite(vectors: np.ndarray, name: Callable[[int], str]) -> None:
    """See that all vectors (N, D) are finite.

    Args:
        vectors: of a model.
        name: names the image of a row, for the message.

    Raises:
        NotFiniteError: some are not; names the first images.
    """
    # A sum is not finite where a number is not; only then are the numbers looked at.
    with np.errstate(invalid="ignore"):  # the sum of both infinities
        total = vectors.sum(dtype=np.float64)
    if np.isfinite(total):
        return
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if not len(broken):
        return
    names = ", ".join(name(int(row)) for row in broken[:_NAMED])
    more = ", ..." if len(broken) > _NAMED else ""
    raise NotFiniteError(
        f"the model gives vectors that are not finite (NaN or infinity) for {len(broken)} of "
        f"{len(vectors)} images ({names}{more}): its weights are damaged, or its numbers overflow; "
        "use an earlier checkpoint, or train again with a lower optim.lr or train.precision=fp32"
    )


def name_of(image: object, row: int) -> str:
    """How a message names an image that a user handed over: its address, else its number."""
    if isinstance(image, (str, Path)):
        return storage.public(str(image))
    return f"image {row}"
