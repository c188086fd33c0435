"""Queries with what they found, classes that are confused, and what another run finds instead."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lookalike.reporting.evaluation_data import Evidence
from lookalike.reporting.selection import confusions, hardest, random, typical, varied

HARDEST, OTHERS = 10, 6
"""Queries of the first part of the gallery, and of each other one."""

_PAIRS = 12
_EXAMPLES = 3
_CHANGED = 6


@dataclass
class Album:
    """The pictures that are shown large, collected while the parts of the page are made."""

    evidence: Evidence
    images: dict[int, None] = field(default_factory=dict)

    def image(self, image: int, **more: Any) -> dict[str, Any]:
        """What the template `picture` shows of an image."""
        self.images[image] = None
        record = self.evidence.records[image]
        name = self.evidence.name(image)
        return {"image": image, "label": name, "place": record.place, **more}


def gallery(album: Album, seed: int) -> list[dict[str, Any]]:
    """The parts of the gallery: hardest, typical and random queries, each in one part only."""
    evidence = album.evidence
    found, labels = evidence.found, evidence.labels
    hard = hardest(found, labels, HARDEST)
    middle = typical(found, OTHERS, set(hard))
    drawn = random(found, OTHERS, {*hard, *middle}, seed)
    parts = (
        ("Hardest", _hardness(int(found.wrong[hard].sum()), len(hard)), hard),
        ("Typical", "from the middle between hard and easy", middle),
        ("Random", "drawn blindly", drawn),
    )
    return [
        {"title": title, "note": note, "rows": [_row(album, place) for place in places]}
        for title, note, places in parts
        if places
    ]


def _hardness(wrong: int, count: int) -> str:
    """What the hardest queries have in common: of `count`, the first `wrong` find a wrong image."""
    if not wrong:
        return "all find a right image first; a wrong one comes closest to it here"
    if wrong == count:
        return "a wrong image is closer than any right one, by the most"
    queries = "query" if wrong == 1 else f"{wrong} queries"
    return (
        f"for the first {queries} a wrong image is closer than any right one; the others find a "
        "right one first"
    )


def _row(album: Album, place: int) -> dict[str, Any]:
    """A query, its neighbours, and the closest right one where it is not among them."""
    found = album.evidence.found
    answers = [
        album.image(image, cosine=found.cosines[place, i], right=bool(found.right[place, i]))
        for i, image in enumerate(found.images[place].tolist())
        if image >= 0
    ]
    missed = None
    if not found.right[place].any():
        match = int(found.match[place])
        missed = album.image(match, cosine=found.match_cosine[place], right=True)
    return {
        "query": album.image(int(found.queries[place])),
        "answers": answers,
        "missed": missed,
    }


def confused(album: Album) -> list[dict[str, Any]]:
    """The pairs of classes that are confused most often, with examples."""
    evidence = album.evidence
    pairs = confusions(evidence.found, evidence.labels, count=_PAIRS, examples=_EXAMPLES)
    cosine = {
        (int(query), int(image)): value
        for query, image, value in zip(
            evidence.found.queries,
            evidence.found.images[:, 0],
            evidence.found.cosines[:, 0],
            strict=True,
        )
    }
    return [
        {
            "names": [evidence.names[one] for one in pair.classes],
            "wrong": pair.wrong,
            "queries": pair.queries,
            "examples": [
                {
                    "query": album.image(query),
                    "answer": album.image(image, cosine=cosine[query, image], right=False),
                }
                for query, image in pair.examples
            ],
        }
        for pair in pairs
    ]


def changed(album: Album, other: Evidence) -> list[dict[str, Any]]:
    """Queries whose closest image is right with one of two models only, clearest first."""
    ours, theirs = album.evidence.found, other.found
    sides = (
        (
            "Right with this run, wrong with the other",
            ~ours.wrong & theirs.wrong,
            ours.lead - theirs.lead,
        ),
        (
            "Wrong with this run, right with the other",
            ours.wrong & ~theirs.wrong,
            theirs.lead - ours.lead,
        ),
    )
    parts = []
    for title, mask, clear in sides:
        places = np.flatnonzero(mask)
        places = places[np.argsort(-clear[places], kind="stable")]
        rows = [
            {
                "query": album.image(int(ours.queries[place])),
                "here": _first(album, album.evidence, place),
                "there": _first(album, other, place),
            }
            for place in varied(places, ours, other.labels, _CHANGED)
        ]
        parts.append({"title": title, "count": int(mask.sum()), "rows": rows})
    return parts


def _first(album: Album, evidence: Evidence, place: int) -> dict[str, Any]:
    found = evidence.found
    return album.image(
        int(found.images[place, 0]),
        cosine=found.cosines[place, 0],
        right=bool(found.right[place, 0]),
    )


def points(evidence: Evidence, images: np.ndarray, places: np.ndarray) -> Iterator[dict[str, Any]]:
    """The images of the map, those of a class one after the other.

    Args:
        evidence: all images.
        images: (n,) those of the map.
        places: (n, 2) within 0 to 1.
    """
    for i in np.argsort(evidence.labels[images], kind="stable").tolist():
        image = int(images[i])
        yield {
            "image": image,
            "label": evidence.name(image),
            "group": int(evidence.labels[image]),
            "x": round(100 * float(places[i, 0]), 2),
            "y": round(100 * float(places[i, 1]), 2),
        }
