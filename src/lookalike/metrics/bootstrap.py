"""Confidence intervals of means over queries, and tests of differences between two models.

**Classes are drawn, not queries.** Queries of one class succeed and fail together: to take them
for independent makes intervals far too narrow. So classes are resampled, with replacement, each
with all of its queries, and the mean over the drawn queries is the ratio of two sums over the
drawn classes (cluster bootstrap of a ratio estimator; Davison and Hinkley, Bootstrap Methods and
their Application, 1997, section 3.8).

**Intervals** are bias-corrected and accelerated (BCa; Efron, Better Bootstrap Confidence
Intervals, 1987), with the jackknife over classes for the acceleration, and widened for few
classes as Student's t is (Hesterberg, What Teachers Should Know about the Bootstrap, 2015,
section 5.3). Resampled means never leave what the classes have, so below `FEW` classes an interval
holds Student's t interval with the jackknife's standard error, too. And classes that were not
sampled may be worse than the worst, or better than the best: up to 1 - (a / 2)^(1 / C) of them, of
which C draws show none with probability a / 2 (Clopper and Pearson, 1934). Were they all at the
end of the range, the mean would move by that share of the way from the outermost class to there,
and an interval of a mean reaches as far; one of a difference where every class has the same.

**Differences** are of the same queries, resampled together. Their p-value is of a sign-flip test:
were the models equally good, each class's difference could as well have had the other sign.

Everything follows from the seed. Sums of classes are rounded to multiples of a power of two so
small that it does not matter and so large that float64 holds every sum of a resample exactly:
results have the same bits on any number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

CONFIDENCE = 0.95
RESAMPLES = 2000

LEAST = 6
"""With fewer classes one sign in all of them is no rarer than 0.05: 2 / 2^C."""

FEW = 30
"""With fewer classes, resampling alone gives too narrow intervals."""

Values = Mapping[str, Tensor | np.ndarray]

_NUMBERS = 2**22  # of a chunk of resamples
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Interval:
    """A mean over queries with its confidence interval, from resampling so many classes."""

    value: float
    low: float
    high: float
    classes: int


@dataclass(frozen=True)
class Difference:
    """The second model's mean minus the first one's, over the same queries, with its interval.

    `p_value` is that of the two-sided sign-flip test by class.
    """

    value: float
    low: float
    high: float
    p_value: float
    classes: int

    @property
    def real(self) -> bool:
        """True if the interval excludes 0 and the test agrees, which takes `LEAST` classes."""
        return (self.low > 0 or self.high < 0) and self.p_value <= 1 - CONFIDENCE

    def describe(self, first: str, second: str) -> str:
        """A sentence on whether the second model is better; the difference is of MAP@R."""
        points = (
            f"MAP@R {100 * self.value:+.1f} points, {100 * CONFIDENCE:g} % interval "
            f"{100 * self.low:+.1f} to {100 * self.high:+.1f}, p = {self.p_value:.2g}"
        )
        if self.low == self.high == 0:
            return f"{second} and {first} give the same results"
        if not self.real:
            few = self.classes < LEAST
            why = f"; at least {LEAST} classes are needed, there are {self.classes}" if few else ""
            return f"no significant difference between {second} and {first}: {points}{why}"
        better = "better" if self.value > 0 else "worse"
        return f"{second} is significantly {better} than {first}: {points}"

    def to_dict(self) -> dict[str, object]:
        """As JSON."""
        return {
            "difference": self.value,
            "interval": [self.low, self.high],
            "p_value": self.p_value,
            "real": self.real,
        }


def mean_intervals(
    values: Values,
    classes: Tensor | np.ndarray,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """Confidence intervals of means over queries.

    Args:
        values: metric to (Q,), within 0 to 1.
        classes: (Q,) integers, the class of each query.
        confidence: probability that the interval covers the mean of the population.
    """
    table = ClassSums.of(values, classes)
    found = _bounds(table, confidence, resamples, seed, least=0.0)
    return {name: Interval(*numbers, table.classes) for name, numbers in found.items()}


def differences(
    first: Values,
    second: Values,
    classes: Tensor | np.ndarray,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Difference]:
    """Differences, second minus first, of the metrics that both have.

    Args:
        first: metric to (Q,), within 0 to 1, of one model.
        second: the same of another model, for the same queries in the same order.
        classes: (Q,) integers, the class of each query.
        confidence: probability that an interval covers the difference of the population.
        resamples: of the classes, and flips of their signs.
    """
    both = {
        name: _float64(second[name]) - _float64(first[name]) for name in first if name in second
    }
    table = ClassSums.of(both, classes)
    found = _bounds(table, confidence, resamples, seed, least=-1.0)
    p_values = _sign_flips(table, resamples, seed + 1)
    return {
        name: Difference(*numbers, p_value, table.classes)
        for (name, numbers), p_value in zip(found.items(), p_values, strict=True)
    }


@dataclass(frozen=True)
class ClassSums:
    """Sums by class: M metrics of C classes.

    Attributes:
        sums: (C, M) float64, integers: sums over the class's queries in steps of 1 / `steps`.
        counts: (C,) float64, its queries.
        steps: a power of two.
    """

    names: list[str]
    sums: np.ndarray
    counts: np.ndarray
    steps: float

    @classmethod
    def of(cls, values: Values, classes: Tensor | np.ndarray) -> ClassSums:
        _, rows, counts = np.unique(np.asarray(classes), return_inverse=True, return_counts=True)
        columns = [_float64(column) for column in values.values()]
        if any(column.shape != rows.shape for column in columns) or not len(rows):
            raise ValueError(f"every metric must have {len(rows)} values, one a query")
        # A sum of a resample is at most C times the largest class.
        room = math.ceil(math.log2(len(counts) * counts.max() + 1))
        steps = 2.0 ** min(40, 51 - room)
        sums = np.stack([np.bincount(rows, np.rint(column * steps)) for column in columns], 1)
        return cls(list(values), sums, counts.astype(np.float64), steps)

    @property
    def classes(self) -> int:
        return len(self.counts)

    def means(self, weights: np.ndarray) -> np.ndarray:
        """The means, (b, M), with the classes weighted by integers, (b, C) float64."""
        return (weights @ self.sums) / self.steps / (weights @ self.counts)[:, None]


def _float64(values: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().to("cpu", torch.float64).numpy()
    return np.asarray(values, np.float64)


def _bounds(
    table: ClassSums, confidence: float, resamples: int, seed: int, *, least: float
) -> dict[str, tuple[float, float, float]]:
    """Mean, lower and upper end of each metric, whose range is `least` to 1."""
    means = table.means(np.ones((1, table.classes)))[0]  # (M,)
    if table.classes < 2:
        return {name: (float(m), least, 1.0) for name, m in zip(table.names, means, strict=True)}
    parts = [table.means(weights) for weights in resample_weights(table.classes, resamples, seed)]
    drawn = np.sort(np.concatenate(parts), axis=0)  # (B, M)
    total, count = table.sums.sum(0), table.counts.sum()
    others = (total - table.sums) / table.steps / (count - table.counts)[:, None]  # (C, M)
    influence = others.mean(0) - others  # (C, M): the jackknife's, up to a factor
    spread = (influence**2).sum(0)
    skew = (influence**3).sum(0) / np.maximum(6 * spread**1.5, np.finfo(float).tiny)
    error = np.sqrt(spread * (table.classes - 1) / table.classes)  # (M,) the jackknife's
    of_class = table.sums / table.steps / table.counts[:, None]  # (C, M)
    worst, best = of_class.min(0), of_class.max(0)
    constant = (best - worst < 1e-9) & (np.abs(means) > 1e-9)
    unseen = 1 - ((1 - confidence) / 2) ** (1 / table.classes)
    result = {}
    for column, name in enumerate(table.names):
        mean, means_drawn = float(means[column]), drawn[:, column]
        below = (means_drawn < mean).mean() + (means_drawn == mean).mean() / 2
        ends = _bca_levels(below, float(skew[column]), table.classes, confidence, resamples)
        low, high = np.quantile(means_drawn, ends)
        if table.classes < FEW:
            reach = student_quantile(confidence, table.classes - 1) * float(error[column])
            low, high = min(low, mean - reach), max(high, mean + reach)
        if least == 0 or constant[column]:
            low = min(low, mean - unseen * (float(worst[column]) - least))
            high = max(high, mean + unseen * (1 - float(best[column])))
        # Rounding must not leave the mean outside where all that can be drawn is on one side.
        result[name] = (
            mean,
            min(max(float(low), least), mean),
            max(min(float(high), 1.0), mean),
        )
    return result


def resample_weights(classes: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """The count of each class in each resample: chunks of (b, C) float64."""
    generator = np.random.default_rng(seed)
    step = max(1, _NUMBERS // classes)
    for begin in range(0, resamples, step):
        rows = min(step, resamples - begin)
        drawn = generator.integers(0, classes, (rows, classes), dtype=np.uint32).astype(np.int64)
        drawn += np.arange(rows)[:, None] * classes
        counts = np.bincount(drawn.ravel(), minlength=rows * classes)
        yield counts.reshape(rows, classes).astype(np.float64)


def _bca_levels(
    below: float, skew: float, classes: int, confidence: float, resamples: int
) -> tuple[float, float]:
    """The quantiles of the resampled means that are the ends of the interval."""
    edge = 1 / (resamples + 1)
    bias = _NORMAL.inv_cdf(min(max(below, edge), 1 - edge))
    wide = math.sqrt(classes / (classes - 1)) * student_quantile(confidence, classes - 1)
    ends = []
    for z in (-wide, wide):
        shifted = bias + z
        accelerated = shifted / max(1 - skew * shifted, 0.1)  # beyond, the expansion fails
        ends.append(min(max(_NORMAL.cdf(bias + accelerated), 0.0), 1.0))
    return ends[0], ends[1]


def student_quantile(confidence: float, degrees: float) -> float:
    """The quantile of Student's t for a two-sided interval."""
    from scipy.stats import t

    return float(t.ppf((1 + confidence) / 2, degrees))


def _sign_flips(table: ClassSums, flips: int, seed: int) -> list[float]:
    """Two-sided p-values: the share of random signs of the classes that give as large a sum."""
    generator = np.random.default_rng(seed)
    observed = np.abs(table.sums.sum(0))  # (M,)
    larger = np.zeros(len(table.names))
    step = max(1, _NUMBERS // table.classes)
    width = -(-table.classes // 8)
    for begin in range(0, flips, step):
        rows = min(step, flips - begin)
        bits = generator.integers(0, 256, (rows, width), dtype=np.uint8)
        signs = np.unpackbits(bits, axis=1)[:, : table.classes].astype(np.float64) * 2 - 1
        larger += (np.abs(signs @ table.sums) >= observed).sum(0)
    return ((larger + 1) / (flips + 1)).tolist()
