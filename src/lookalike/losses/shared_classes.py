"""Images that have a class in common, where each has one class or several."""

from __future__ import annotations

from torch import Tensor


def share_class(some: Tensor, others: Tensor) -> Tensor:
    """(n, N) bool, True where one of some images has a class in common with one of others.

    Args:
        some: (n,) classes, or (n, L) of images with up to L classes, with -1 behind the last.
        others: (N,) or (N, L), alike.
    """
    if some.ndim == 1:
        return some[:, None] == others
    return have_common(some[:, None], others[None])


def have_common(some: Tensor, others: Tensor) -> Tensor:
    """(...) bool, True where (..., L) classes, with -1 for none, have one in common.

    The shapes before the last dimension broadcast.
    """
    found = None
    for one in some.unbind(-1):
        for other in others.unbind(-1):
            same = (one == other) & (one >= 0)
            found = same if found is None else found.logical_or_(same)
    assert found is not None
    return found
