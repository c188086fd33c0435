"""The probability that two images are of the same thing, given their cosine.

Of a pair with cosine c, the odds that it is a same pair are the prior odds times the likelihood
ratio: the density of same pairs at c over that of different pairs. The ratio is fitted as a
rising function of the cosine, by isotonic regression on the counted pairs with both kinds given
the same total weight; another prior moves all odds by one factor and leaves the fit as it is. The
steps of the regression become points at their mean cosine, joined by lines in the logarithm. A
step that holds pairs of one kind only is taken to hold half a pair of the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from pydantic import FiniteFloat

from lookalike.metrics.verification import RESOLUTION, PairCounts
from lookalike.storage.checked_json import Cosine

_MOST_POINTS = 200


@dataclass(frozen=True)
class LikelihoodRatio:
    """The logarithm of the likelihood ratio of same to different, as a rising function.

    Attributes:
        cosines: of the points, rising.
        log_ratios: at them, natural logarithms, never falling; straight between, flat outside.
    """

    cosines: tuple[Cosine, ...]
    log_ratios: tuple[FiniteFloat, ...]

    def check(self) -> None:
        """Raise a ValueError unless it is such a function."""
        if not 0 < len(self.cosines) == len(self.log_ratios):
            raise ValueError("likelihood: cosines and log_ratios are not of one length above 0")
        for name, rising in (("cosines", self.cosines), ("log_ratios", self.log_ratios)):
            if any(after < before for before, after in pairwise(rising)):
                raise ValueError(f"likelihood.{name}: falls somewhere")

    @classmethod
    def fit(cls, counts: PairCounts) -> LikelihoodRatio:
        """The ratio in counted pairs, of which there are both kinds."""
        from sklearn.isotonic import IsotonicRegression

        bins = np.flatnonzero(counts.same + counts.different)
        same = counts.same[bins] / counts.same.sum()
        different = counts.different[bins] / counts.different.sum()
        weight = same + different
        centres = (bins + 0.5) * RESOLUTION - 1
        fitted = IsotonicRegression().fit_transform(centres, same / weight, sample_weight=weight)
        starts = np.flatnonzero(np.diff(fitted, prepend=-1.0))
        cosines = np.add.reduceat(centres * weight, starts) / np.add.reduceat(weight, starts)
        # Half a pair where there is none.
        its_same = np.maximum(np.add.reduceat(same, starts), 0.5 / counts.same.sum())
        its_different = np.maximum(np.add.reduceat(different, starts), 0.5 / counts.different.sum())
        ratios = np.maximum.accumulate(np.log(its_same / its_different))
        if len(starts) > _MOST_POINTS:
            kept = np.unique(np.linspace(0, len(starts) - 1, _MOST_POINTS).round().astype(int))
            cosines, ratios = cosines[kept], ratios[kept]
        return cls(tuple(cosines.tolist()), tuple(ratios.tolist()))

    def probability(self, cosine: float | np.ndarray, prior: float) -> np.ndarray:
        """The probability of "the same", of the shape of `cosine`; `prior` is of same pairs."""
        ratio = np.interp(cosine, self.cosines, self.log_ratios)
        return 1 / (1 + np.exp(-(ratio + np.log(prior / (1 - prior)))))
