"""What a cosine means: the same thing or not, as the model's calibration says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lookalike import storage
from lookalike.retrieval.calibration import Calibration


@dataclass(frozen=True)
class Neighbour:
    """One image that a query found.

    Attributes:
        id: of the image.
        label: None where it is not known.
        cosine: of the two.
        probability: that both show the same thing; None without a calibration.
        same: whether the cosine reaches the threshold; None without a calibration.
        itself: whether the query is this image.
    """

    id: str
    label: str | None
    cosine: float
    probability: float | None
    same: bool | None
    itself: bool


@dataclass(frozen=True)
class Answer:
    """What one query found.

    Attributes:
        query: its id.
        neighbours: best first.
        known: whether the gallery has what the query shows, by its best match beside itself; None
            where the calibration does not say.
    """

    query: str
    neighbours: tuple[Neighbour, ...]
    known: bool | None


def judge(
    query: str,
    ids: list[str],
    cosines: np.ndarray,
    labels: list[str | None],
    calibration: Calibration | None,
    limit: float | None,
    shown: int | None = None,
) -> Answer:
    """The answer to a query.

    Args:
        query: its id.
        ids: of the neighbours, best first.
        cosines: (K,) of the neighbours.
        labels: of the neighbours.
        calibration: of the model; None where it has none.
        limit: the cosine below which a best match is none; see `limit_of`.
        shown: neighbours of the answer; all by default. One more than these tells what a query
            that is in the gallery has beside itself.
    """
    chances: list[float | None] = [None] * len(ids)
    same: list[bool | None] = [None] * len(ids)
    if calibration is not None and ids:
        chances = [float(chance) for chance in calibration.probability(cosines)]
        same = [bool(cosine >= calibration.threshold) for cosine in cosines]
    place_of = storage.canonicalizer()
    place = place_of(query)
    found = tuple(
        Neighbour(id, label, float(cosine), chance, verdict, id == query or place_of(id) == place)
        for id, label, cosine, chance, verdict in zip(
            ids, labels, cosines, chances, same, strict=True
        )
    )
    others = [one.cosine for one in found if not one.itself]
    known = None if limit is None or not others else others[0] >= limit
    return Answer(query, found[:shown], known)


def limit_of(calibration: Calibration | None, gallery: int) -> float | None:
    """The cosine below which the best match in a gallery of so many images is none.

    None where the calibration does not say: it has none, or saw far fewer images.
    """
    if calibration is None or calibration.open_set is None or gallery == 0:
        return None
    try:
        return calibration.open_set.threshold(gallery=gallery)
    except ValueError:
        return None
