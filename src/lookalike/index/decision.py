"""Match decisions: the same thing or not, by the model's calibration.

All follow from one probability, that of "the same thing" given the cosine and one prior
(`prior_of`): a neighbour is the same where it is at least one half, and a query is known where its
best match is. So decisions and probabilities cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real

import numpy as np

from lookalike import storage
from lookalike.errors import ConfigError
from lookalike.metrics.calibration import Calibration


@dataclass(frozen=True)
class Neighbour:
    """An image near a query.

    Attributes:
        label: None where it is unknown.
        probability: that both show the same thing; None without a calibration.
        same: True from one half on; None without a calibration.
        itself: True if the query is this image.
    """

    id: str
    label: str | None
    cosine: float
    probability: float | None
    same: bool | None
    itself: bool

    @property
    def decision(self) -> str:
        """The more probable case and its probability: `same 97 %`, `different 80 %`."""
        if self.probability is None:
            return ""
        share = self.probability if self.same else 1 - self.probability
        shown = ">99" if share > 0.995 else f"{100 * share:.0f}"
        return f"{'same' if self.same else 'different'} {shown} %"


@dataclass(frozen=True)
class Answer:
    """The neighbours of a query, best first.

    Attributes:
        query: its id.
        known: True if the best match beside the query itself is the same thing; None without a
            calibration, or without such a match.
        prior: the share of same pairs that the probabilities assume; None without a calibration.
    """

    query: str
    neighbours: tuple[Neighbour, ...]
    known: bool | None
    prior: float | None = None


def decide(
    query: str | None,
    ids: list[str],
    cosines: np.ndarray,
    labels: list[str | None],
    calibration: Calibration | None,
    prior: float | None,
    shown: int | None = None,
) -> Answer:
    """The answer to the query of this id, with neighbours best first.

    For a query that is in the gallery itself, give one neighbour more than are `shown` (all by
    default): the best one beside itself decides whether it is known. A query without an id, None,
    is in no gallery.
    """
    chances: list[float | None] = [None] * len(ids)
    if calibration is not None and prior is not None and ids:
        chances = [float(chance) for chance in calibration.probability(cosines, prior)]
    place_of = storage.canonicalizer()
    place = None if query is None else place_of(query)
    found = tuple(
        Neighbour(
            id=id,
            label=label,
            cosine=float(cosine),
            probability=chance,
            same=None if chance is None else chance >= 0.5,
            itself=query is not None and (id == query or place_of(id) == place),
        )
        for id, label, cosine, chance in zip(ids, labels, cosines, chances, strict=True)
    )
    others = [one.same for one in found if not one.itself]
    return Answer(query or "", found[:shown], others[0] if others else None, prior)


def prior_of(
    calibration: Calibration | None, gallery: int, wanted: float | None = None
) -> float | None:
    """The share of same pairs that the probabilities of a search assume.

    By default that of the calibration for a gallery of so many images.

    Raises:
        ConfigError: `wanted` is not between 0 and 1, or there is no calibration for it.
    """
    if wanted is not None:
        if isinstance(wanted, bool) or not isinstance(wanted, Real) or not 0 < wanted < 1:
            raise ConfigError(
                f"prior={wanted!r} (--prior): the share of same pairs is between 0 and 1, as 0.01 "
                "where one in a hundred shows the same thing"
            )
        if calibration is None:
            raise ConfigError(
                "--prior needs a calibrated model: this one has no calibration.json; train with "
                "--val LIST"
            )
        return float(wanted)
    return None if calibration is None else calibration.search_prior(gallery)
