"""Panels with images: selected queries and their neighbours, confused classes, the map."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lookalike.reporting.evaluation_data import EvaluationData
from lookalike.reporting.query_neighbours import QueryNeighbours

HARDEST, OTHERS = 10, 6
"""Queries of the first panel, and of each other one."""

_OF_A_CLASS = 2  # queries of a panel: one odd class must not fill it
_PAIRS = 12
_EXAMPLES = 3
_CHANGED = 6


@dataclass
class ImageCollector:
    """Describes images for the templates, and collects those that need a large cell."""

    evaluation: EvaluationData
    images: dict[int, None] = field(default_factory=dict)

    def image(self, image: int, **more: Any) -> dict[str, Any]:
        """Variables of the template's macros for an image."""
        self.images[image] = None
        record = self.evaluation.records[image]
        return {
            "image": image,
            "label": self.evaluation.name(image),
            "place": record.place,
            **more,
        }


def query_panels(collector: ImageCollector, seed: int) -> list[dict[str, Any]]:
    """Hardest, typical and random queries, each query in one panel only."""
    evaluation = collector.evaluation
    neighbours, labels = evaluation.neighbours, evaluation.labels
    hard = hardest(neighbours, labels, HARDEST)
    middle = typical(neighbours, OTHERS, set(hard))
    drawn = random(neighbours, OTHERS, {*hard, *middle}, seed)
    panels = (
        ("Hardest", _hardness(int(neighbours.wrong[hard].sum()), len(hard)), hard),
        ("Typical", "from the middle between hardest and easiest", middle),
        ("Random", "a random sample", drawn),
    )
    return [
        {"title": title, "note": note, "rows": [_row(collector, i) for i in queries]}
        for title, note, queries in panels
        if queries
    ]


def hardest(neighbours: QueryNeighbours, labels: np.ndarray, count: int) -> list[int]:
    """Indices of the queries with the lowest margin, two of a class at most."""
    return _varied(np.argsort(neighbours.margin, kind="stable"), neighbours, labels, count)


def _varied(
    order: np.ndarray, neighbours: QueryNeighbours, labels: np.ndarray, count: int
) -> list[int]:
    selected: list[int] = []
    taken: dict[int, int] = defaultdict(int)
    for i in order.tolist():
        label = int(labels[neighbours.queries[i]])
        if taken[label] < _OF_A_CLASS and len(selected) < count:
            taken[label] += 1
            selected.append(i)
    return selected


def typical(neighbours: QueryNeighbours, count: int, without: set[int]) -> list[int]:
    """Indices of the queries with the median margin."""
    order = [i for i in np.argsort(neighbours.margin, kind="stable").tolist() if i not in without]
    begin = max(0, (len(order) - count) // 2)
    return order[begin : begin + count]


def random(neighbours: QueryNeighbours, count: int, without: set[int], seed: int) -> list[int]:
    """Indices of randomly drawn queries."""
    rest = np.array([i for i in range(len(neighbours.queries)) if i not in without], np.int64)
    drawn = np.random.default_rng(seed).permutation(len(rest))[:count]
    return [int(i) for i in rest[drawn]]


def _hardness(wrong: int, count: int) -> str:
    """Description of `count` queries, of which the first `wrong` have a wrong nearest image."""
    if not wrong:
        return "all have a nearest image of the same class, by the smallest margins"
    if wrong == count:
        return "nearest image of a different class, by the largest margins"
    queries = "query has" if wrong == 1 else f"{wrong} queries have"
    return (
        f"the first {queries} a nearest image of a different class; the others one of the same "
        "class, by the smallest margins"
    )


def _row(collector: ImageCollector, i: int) -> dict[str, Any]:
    """A query, its neighbours, and the nearest of its class where it is not among them."""
    neighbours = collector.evaluation.neighbours
    answers = [
        collector.image(image, cosine=neighbours.cosines[i, k], right=bool(neighbours.right[i, k]))
        for k, image in enumerate(neighbours.images[i].tolist())
        if image >= 0
    ]
    missed = None
    if not neighbours.right[i].any():
        match = int(neighbours.match[i])
        missed = collector.image(match, cosine=neighbours.match_cosine[i], right=True)
    query = collector.image(int(neighbours.queries[i]))
    return {"query": query, "answers": answers, "missed": missed}


@dataclass(frozen=True)
class Confusion:
    """Two classes whose images have each other as nearest neighbours.

    Attributes:
        classes: of the closest wrong pair: that of the query first.
        wrong: queries of either class whose nearest image is of the other one.
        queries: queries of either class.
        examples: (query, neighbour) images, highest cosine first.
    """

    classes: tuple[int, int]
    wrong: int
    queries: int
    examples: list[tuple[int, int]]


def confusions(
    neighbours: QueryNeighbours, labels: np.ndarray, *, count: int, examples: int
) -> list[Confusion]:
    """The `count` most frequently confused pairs of classes, each with up to `examples`.

    An image is an example once.
    """
    mistakes = defaultdict(list)
    for i in np.flatnonzero(neighbours.wrong).tolist():
        query, image = int(neighbours.queries[i]), int(neighbours.images[i, 0])
        if image < 0:
            continue
        one, two = sorted((int(labels[query]), int(labels[image])))
        mistakes[one, two].append((-neighbours.cosines[i, 0], query, image))
    of_class = np.bincount(labels[neighbours.queries], minlength=int(labels.max()) + 1)

    def order(pair: tuple[int, int]) -> tuple[float, float, tuple[int, int]]:
        return -len(mistakes[pair]), float(of_class[list(pair)].sum()), pair

    result = []
    for pair in sorted(mistakes, key=order)[:count]:
        shown: list[tuple[int, int]] = []
        for _, query, image in sorted(mistakes[pair]):
            if {query, image}.isdisjoint({p for both in shown for p in both}):
                shown.append((query, image))
        first = int(labels[shown[0][0]])
        classes = (first, pair[0] if first == pair[1] else pair[1])
        wrong, queries = len(mistakes[pair]), int(of_class[list(pair)].sum())
        result.append(Confusion(classes, wrong, queries, shown[:examples]))
    return result


def confused_classes(collector: ImageCollector) -> list[dict[str, Any]]:
    """The most frequently confused pairs of classes, with examples."""
    evaluation = collector.evaluation
    neighbours = evaluation.neighbours
    pairs = confusions(neighbours, evaluation.labels, count=_PAIRS, examples=_EXAMPLES)
    cosine = dict(zip(neighbours.queries.tolist(), neighbours.cosines[:, 0].tolist(), strict=True))
    return [
        {
            "names": [evaluation.names[one] for one in pair.classes],
            "wrong": pair.wrong,
            "queries": pair.queries,
            "examples": [
                {
                    "query": collector.image(query),
                    "answer": collector.image(image, cosine=cosine[query], right=False),
                }
                for query, image in pair.examples
            ],
        }
        for pair in pairs
    ]


def changed_queries(collector: ImageCollector, other: EvaluationData) -> list[dict[str, Any]]:
    """Queries that only one of two models gets right, largest difference of margins first."""
    ours, theirs = collector.evaluation.neighbours, other.neighbours
    sides = (
        (
            "Right with this run, wrong with the other run",
            ~ours.wrong & theirs.wrong,
            ours.margin - theirs.margin,
        ),
        (
            "Wrong with this run, right with the other run",
            ours.wrong & ~theirs.wrong,
            theirs.margin - ours.margin,
        ),
    )
    panels = []
    for title, mask, difference in sides:
        order = np.flatnonzero(mask)
        order = order[np.argsort(-difference[order], kind="stable")]
        rows = [
            {
                "query": collector.image(int(ours.queries[i])),
                "here": _nearest(collector, ours, i),
                "there": _nearest(collector, theirs, i),
            }
            for i in _varied(order, ours, other.labels, _CHANGED)
        ]
        panels.append({"title": title, "count": int(mask.sum()), "rows": rows})
    return panels


def _nearest(collector: ImageCollector, neighbours: QueryNeighbours, i: int) -> dict[str, Any]:
    return collector.image(
        int(neighbours.images[i, 0]),
        cosine=neighbours.cosines[i, 0],
        right=bool(neighbours.right[i, 0]),
    )


def map_points(
    evaluation: EvaluationData, images: np.ndarray, positions: np.ndarray
) -> Iterator[dict[str, Any]]:
    """Variables of the map's images, by class.

    Args:
        images: (n,) those of the map.
        positions: (n, 2) within 0 to 1.
    """
    for i in np.argsort(evaluation.labels[images], kind="stable").tolist():
        image = int(images[i])
        yield {
            "image": image,
            "label": evaluation.name(image),
            "group": int(evaluation.labels[image]),
            "x": round(100 * float(positions[i, 0]), 2),
            "y": round(100 * float(positions[i, 1]), 2),
        }
