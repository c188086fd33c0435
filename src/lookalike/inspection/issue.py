"""Issues of lists, images and labels, with the images concerned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

from lookalike.data.catalog import Catalog
from lookalike.data.record import Record
from lookalike.data.record_table import RecordTable

Severity = Literal["wrong", "doubtful", "note"]

MOST_GROUPS = 10_000
"""Groups that an issue keeps; its count is of all of them."""


@dataclass(frozen=True)
class Group:
    """Images that belong together.

    Attributes:
        rows: of `Lists.records`.
        note: a remark, or "".
        label: that the images rather have, as the list writes it; "" where none is known.
    """

    rows: tuple[int, ...]
    note: str = ""
    label: str = ""


@dataclass(frozen=True)
class Issue:
    """One kind of fault.

    Attributes:
        kind: its name for programs, as `leakage_exact`.
        severity: `wrong` spoils training or its scores, `doubtful` needs a decision, `note` is
            for information.
        title: reads well after the count, for one or many: "images that cannot be read".
        advice: instructions.
        count: number of all groups.
        groups: worst first; the first `MOST_GROUPS` of them.
    """

    kind: str
    severity: Severity
    title: str
    advice: str
    count: int
    groups: tuple[Group, ...]


def issues_of(
    kind: str, severity: Severity, title: str, advice: str, groups: Sequence[Group]
) -> list[Issue]:
    """The issue of these groups in a list; an empty list without groups."""
    if not groups:
        return []
    return [Issue(kind, severity, title, advice, len(groups), tuple(groups[:MOST_GROUPS]))]


@dataclass(frozen=True)
class Lists:
    """The images of both lists in one sequence.

    Attributes:
        records: training images first; a row is an index of it.
        training: number of training images.
    """

    records: Sequence[Record]
    training: int

    @classmethod
    def of(cls, train: Catalog, val: Catalog | None) -> Lists:
        """The records of both catalogs."""
        records = train.records if val is None else RecordTable(chain(train.records, val.records))
        return cls(records, len(train))

    def part(self, row: int) -> str:
        """`training` or `validation`."""
        return "training" if row < self.training else "validation"

    def repeated(self, groups: Iterable[Group]) -> tuple[list[Group], list[Group], list[Group]]:
        """Of groups that are one image each, rows ascending: those in both lists, and the parts of
        one list that have no label in common, and that have one.
        """
        leaks, labels, copies = [], [], []
        for group in groups:
            train = tuple(row for row in group.rows if row < self.training)
            val = group.rows[len(train) :]
            if train and val:
                leaks.append(group)
            for rows in (train, val):
                if rows and not set.intersection(*(set(self.records[row].labels) for row in rows)):
                    labels.append(Group(rows, group.note))
                elif len(rows) > 1:
                    copies.append(Group(rows, group.note))
        return leaks, labels, copies


@dataclass(frozen=True)
class Diagnosis:
    """Result of an inspection.

    Attributes:
        facts: numbers by section, as plain values for JSON.
        issues: the most serious first.
        label_separator: the text between the labels of an image; None where each has one.
    """

    lists: Lists
    facts: Mapping[str, Any]
    issues: tuple[Issue, ...] = field(default=())
    label_separator: str | None = None

    def label(self, row: int) -> str:
        """The label of an image, or its labels with the separator between."""
        return (self.label_separator or "").join(self.lists.records[row].labels)

    def to_dict(self) -> dict[str, Any]:
        """The content of doctor.json."""
        return {
            "facts": dict(self.facts),
            "findings": [
                {
                    "kind": issue.kind,
                    "severity": issue.severity,
                    "title": issue.title,
                    "advice": issue.advice,
                    "count": issue.count,
                    "groups": [
                        {
                            "note": group.note,
                            **({"label": group.label} if group.label else {}),
                            "images": [self._image(row) for row in group.rows],
                        }
                        for group in issue.groups
                    ],
                }
                for issue in self.issues
            ],
        }

    def _image(self, row: int) -> dict[str, Any]:
        record = self.lists.records[row]
        return {
            "list": self.lists.part(row),
            "source": record.source,
            "line": record.line,
            "origin": record.origin,
            "image": record.place,
            "label": self.label(row),
        }


_ORDER: dict[Severity, int] = {"wrong": 0, "doubtful": 1, "note": 2}


def by_severity(issues: Iterable[Issue]) -> tuple[Issue, ...]:
    """The most serious first; otherwise in their order."""
    return tuple(sorted(issues, key=lambda issue: _ORDER[issue.severity]))
