"""What the same picture in several places means: copies, contradictions, leaks."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from lookalike.inspection.duplicates import MOST_PAIRS, exact_groups, near_groups
from lookalike.inspection.image_facts import Pictures
from lookalike.inspection.issue import Finding, Group, Lists, finding

_SAID = (
    (
        "leakage", "{}, in the training and the validation list",
        "Remove them from one of the lists: validation must not measure what was learnt.",
    ),
    (
        "two_labels", "{}, with different labels in one list",
        "Decide on one label for each. If both are right, the two classes are one.",
    ),
    (
        "duplicates", "{}, in one list with one label",
        "Keep one of each, or the class counts for more images than it has. In a validation list "
        "they find each other, and scores come out too high.",
    ),
)  # fmt: skip

_CUT = Finding(
    "near_search_cut", "note", "search for nearly the same pictures that was not finished",
    f"So many are much alike that only the first {MOST_PAIRS:,} pairs were compared. Frames of a "
    "film? Keep fewer of them, or look at one part of the list at a time.",
    1, (),
)  # fmt: skip


def inspect_copies(lists: Lists, pictures: Pictures) -> list[Finding]:
    """Findings about pictures with the same content, and about nearly the same pictures."""
    exact = exact_groups(pictures)
    spare = np.zeros(len(pictures.rows), bool)
    for group in exact:
        spare[group[1:]] = True
    near, whole = near_groups(pictures, np.flatnonzero(pictures.readable & ~spare))
    return [
        *_findings(lists, pictures, exact, "exact", "groups of files with the same content"),
        *_findings(lists, pictures, near, "near", "groups of nearly the same picture"),
        *([] if whole else [_CUT]),
    ]


def _findings(
    lists: Lists, pictures: Pictures, groups: Iterable[np.ndarray], how: str, what: str
) -> list[Finding]:
    leaks, labels, copies = [], [], []
    for group in groups:
        rows = pictures.rows[group].tolist()
        mine = [row for row in rows if row < lists.training]
        other = rows[len(mine) :]
        if mine and other:
            leaks.append(Group(tuple(rows), _sizes(pictures, group)))
        for part in (mine, other):
            if len({lists.records[row].label for row in part}) > 1:
                labels.append(Group(tuple(part), _sizes(pictures, group)))
            elif len(part) > 1:
                copies.append(Group(tuple(part), _sizes(pictures, group)))
    return [
        found
        for (kind, title, advice), its in zip(_SAID, (leaks, labels, copies), strict=True)
        for found in finding(
            f"{kind}_{how}",
            # Nearly the same may be two things after all: that is for people to see.
            "doubtful" if how == "near" or kind == "duplicates" else "wrong",
            title.format(what),
            ("Look at them. " if how == "near" else "") + advice,
            its,
        )
    ]


def _sizes(pictures: Pictures, group: np.ndarray) -> str:
    """`72 x 72, 36 x 36`: width and height of each picture, each size once."""
    sizes = dict.fromkeys(f"{w} x {h}" for h, w in pictures.sizes[group].tolist())
    return ", ".join(list(sizes)[:4]) + (", ..." if len(sizes) > 4 else "")
