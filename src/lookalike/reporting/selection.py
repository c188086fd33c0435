"""Which of many queries and classes are worth a picture."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from lookalike.reporting.query_neighbours import Neighbours

_OF_A_CLASS = 2  # one odd class must not fill the page


@dataclass(frozen=True)
class Confusion:
    """Two classes whose images take one another for the closest.

    Attributes:
        classes: the two; that of the most frequent mistake first.
        wrong: queries of either whose closest image is of the other.
        queries: queries of either.
        examples: (query, neighbour) images, closest pairs first.
    """

    classes: tuple[int, int]
    wrong: int
    queries: int
    examples: list[tuple[int, int]]


def hardest(found: Neighbours, labels: np.ndarray, count: int) -> list[int]:
    """The queries whose closest wrong image is closer than the closest right one by the most.

    Args:
        found: the neighbours of Q queries.
        labels: (M,) the class of each image.
        count: how many, of which two of a class at most.

    Returns:
        Places among the Q queries, hardest first.
    """
    return varied(np.argsort(found.lead, kind="stable"), found, labels, count)


def varied(order: np.ndarray, found: Neighbours, labels: np.ndarray, count: int) -> list[int]:
    """The first of some places among the Q queries, two of a class at most."""
    picked: list[int] = []
    taken: dict[int, int] = defaultdict(int)
    for place in order.tolist():
        label = int(labels[found.queries[place]])
        if taken[label] < _OF_A_CLASS and len(picked) < count:
            taken[label] += 1
            picked.append(place)
    return picked


def typical(found: Neighbours, count: int, without: set[int]) -> list[int]:
    """The queries in the middle of the order from hard to easy."""
    order = [p for p in np.argsort(found.lead, kind="stable").tolist() if p not in without]
    begin = max(0, (len(order) - count) // 2)
    return order[begin : begin + count]


def random(found: Neighbours, count: int, without: set[int], seed: int) -> list[int]:
    """Queries drawn blindly."""
    rest = np.array([p for p in range(len(found.queries)) if p not in without], np.int64)
    drawn = np.random.default_rng(seed).permutation(len(rest))[:count]
    return [int(place) for place in rest[drawn]]


def confusions(
    found: Neighbours, labels: np.ndarray, *, count: int, examples: int
) -> list[Confusion]:
    """The pairs of classes that are confused most often, most often first.

    Args:
        found: the neighbours of Q queries.
        labels: (M,) the class of each image.
        count: how many pairs at most.
        examples: of each pair at most, each query once and each neighbour once.
    """
    mistakes = defaultdict(list)
    for place in np.flatnonzero(found.wrong).tolist():
        query, image = int(found.queries[place]), int(found.images[place, 0])
        if image < 0:
            continue
        one, two = sorted((int(labels[query]), int(labels[image])))
        mistakes[one, two].append((-found.cosines[place, 0], query, image))
    asked = np.bincount(labels[found.queries], minlength=int(labels.max()) + 1)

    def order(pair: tuple[int, int]) -> tuple[float, float, tuple[int, int]]:
        return -len(mistakes[pair]), float(asked[list(pair)].sum()), pair

    result = []
    for pair in sorted(mistakes, key=order)[:count]:
        shown: list[tuple[int, int]] = []
        for _, query, image in sorted(mistakes[pair]):
            if {query, image}.isdisjoint({p for both in shown for p in both}):
                shown.append((query, image))
        first = int(labels[shown[0][0]])
        names = (first, pair[0] if first == pair[1] else pair[1])
        wrong, queries = len(mistakes[pair]), int(asked[list(pair)].sum())
        result.append(Confusion(names, wrong, queries, shown[:examples]))
    return result
