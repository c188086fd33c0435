"""Open-set identification: a threshold on the best match of a query.

Each query stands once for an unknown thing: the images of its own class are left out, and its best
match among the others would be wrong. The share of the queries whose best wrong match is at the
threshold or above is the false-positive identification rate, FPIR. With its class in the gallery, a
query is found if its best match is of its class and not below the threshold.

The larger the gallery, the higher the best wrong match. If false positives come from the classes
of the gallery independently, a gallery g times as large lets 1 - (1 - a)^g of the unknown pass
where a passed: so the threshold for the share a there is the one for 1 - (1 - a)^(1 / g) here.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from lookalike.distributed.world import World
from lookalike.errors import DataError, check_number
from lookalike.metrics.pair_scan import PairSet, Tile
from lookalike.metrics.verification import LEAST_ACCEPTED, RESOLUTION
from lookalike.storage.checked_json import Amount, Cosine, Count, Share

SHARES = (0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
"""Shares of unknown queries that pass, for which thresholds are measured."""

DEFAULT_SHARE = 0.05


@dataclass(frozen=True)
class Rejection:
    """The lowest threshold (in steps of 2^-16) by which at most `target` unknown queries pass.

    `passed` is the share that does; `found` is that of the known queries whose best match is right
    and not below the threshold.
    """

    target: Share
    threshold: Cosine
    passed: Share
    found: Share


@dataclass(frozen=True)
class OpenSet:
    """Measured thresholds by falling target, for `gallery` images on average."""

    queries: Count
    gallery: Amount
    default: Share
    rejections: tuple[Rejection, ...]

    def threshold(self, share: float | None = None, gallery: float | None = None) -> float:
        """The cosine below which a query's best match means that its thing is unknown.

        Args:
            share: of the unknown queries that may pass, between 0 and 1.
            gallery: images that are searched; by default as many as here. In one so small that
                its threshold is below all that were measured, the lowest of these is taken, which
                lets fewer pass.

        Raises:
            DataError: so small a share, or so large a gallery, is beyond what was measured; or
                no share, or no gallery.
        """
        share = self.default if share is None else share
        check_share("share", share)
        if gallery is not None:
            check_number("gallery", gallery, 0, above=True)
        times = 1.0 if gallery is None else gallery / self.gallery
        target = 1 - (1 - share) ** (1 / times)
        targets = np.log([one.target for one in reversed(self.rejections)])  # rising
        cosines = [one.threshold for one in reversed(self.rejections)]
        if not targets[0] - 1e-9 <= np.log(target) <= 0:
            raise DataError(
                f"a share of {target:.2g} in the gallery of {self.gallery:,.0f} images that was "
                f"measured is below the smallest supported one, {self.rejections[-1].target:g}"
            )
        return float(np.interp(np.log(target), targets, cosines))

    def largest_gallery(self) -> float:
        """Images of the largest gallery for which `threshold` is known, at the default share."""
        least = min(self.rejections[-1].target, 1 - 1e-9)
        return self.gallery * max(1.0, float(np.log1p(-self.default) / np.log1p(-least)))


def check_share(name: str, value: object) -> None:
    """Raise a DataError unless an argument is a number between 0 and 1."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0 < value < 1:  # type: ignore[operator]
        raise DataError(f"{name}={value!r} is not a number between 0 and 1")


class BestMatches:
    """The best right and the best wrong match of each image, over the tiles of a set.

    Attributes:
        right: (N,) float64, cosines in the order of the set; -inf where there is none so far.
        wrong: (N,) float64, the same.
    """

    def __init__(self, pairs: PairSet) -> None:
        self._set = pairs
        shape, device = (len(pairs),), pairs.vectors.device
        self.right = torch.full(shape, -torch.inf, dtype=torch.float64, device=device)
        self.wrong = self.right.clone()

    def add(self, tile: Tile) -> None:
        """Merge the pairs of a tile, in both directions."""
        parts: list[tuple[Tensor, Tensor | None]] = [(self.wrong, None)]
        if tile.one_class:
            same = self._set.same(tile)
            parts = [(self.right, same), (self.wrong, ~same)]
        for best, only in parts:
            found = tile.masked(only)
            self._raise(best, tile.rows, found, tile.columns)
            self._raise(best, tile.columns, found.T, tile.rows)

    def _raise(self, best: Tensor, queries: slice, found: Tensor, searched: slice) -> None:
        if self._set.roles is not None:
            found = found.masked_fill(~self._set.roles.gallery[searched], -torch.inf)
        torch.maximum(best[queries], found.amax(1), out=best[queries])

    def open_set(self, world: World) -> OpenSet | None:
        """The thresholds; None where too few queries have a wrong match."""
        right, wrong = (
            world.max(best.to(world.device)).cpu().numpy() for best in (self.right, self.wrong)
        )
        is_query, gallery = np.isfinite(wrong), float(len(wrong))
        if self._set.roles is not None:
            is_query &= self._set.roles.query.cpu().numpy()
            gallery = float(self._set.roles.gallery.sum())
        right, wrong = right[is_query], wrong[is_query]
        if len(wrong) * SHARES[0] < LEAST_ACCEPTED:
            return None
        sizes = np.bincount(self._set.classes.cpu().numpy())[self._set.classes.cpu().numpy()]
        if self._set.roles is None:
            gallery -= float(sizes[is_query].mean())  # its class is left out
        falling = np.sort(wrong)[::-1]
        rejections = []
        for target in SHARES:
            if target * len(wrong) < LEAST_ACCEPTED:
                break
            passing = falling[int(target * len(wrong))]  # the first that must not pass
            threshold = (np.floor(passing / RESOLUTION) + 1) * RESOLUTION
            known = np.isfinite(right)
            found = (right >= threshold) & (right > wrong)
            rejections.append(
                Rejection(
                    target=target,
                    threshold=float(threshold),
                    passed=float((wrong >= threshold).mean()),
                    found=float(found[known].mean()) if known.any() else 0.0,
                )
            )
        default = max(DEFAULT_SHARE, rejections[-1].target)
        return OpenSet(len(wrong), gallery, default, tuple(rejections))
