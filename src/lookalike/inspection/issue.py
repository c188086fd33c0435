"""What an inspection has to say, and about which images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lookalike.data.catalog import Catalog
from lookalike.data.record import Record

Severity = Literal["wrong", "doubtful", "note"]

MOST_GROUPS = 10_000
"""Groups that a finding keeps; its count is of all of them."""


@dataclass(frozen=True)
class Group:
    """Images that are named together.

    Attributes:
        rows: of `Lists.records`.
        note: what there is to say of these, if anything.
    """

    rows: tuple[int, ...]
    note: str = ""


@dataclass(frozen=True)
class Finding:
    """One kind of fault.

    Attributes:
        kind: its name for programs, as `leakage_exact`.
        severity: `wrong` spoils training or its measure, `doubtful` wants a look, `note` is good
            to know.
        title: what it is, to be read after the count, of one or many: "images that cannot be read".
        advice: what to do.
        count: how often it was found.
        groups: where, worst first; the first `MOST_GROUPS` of them.
    """

    kind: str
    severity: Severity
    title: str
    advice: str
    count: int
    groups: tuple[Group, ...]


def finding(
    kind: str, severity: Severity, title: str, advice: str, groups: Sequence[Group]
) -> list[Finding]:
    """A finding of so many groups, in a list; an empty list where there are none."""
    if not groups:
        return []
    return [Finding(kind, severity, title, advice, len(groups), tuple(groups[:MOST_GROUPS]))]


@dataclass(frozen=True)
class Lists:
    """The images of both lists in one sequence.

    Attributes:
        records: the training images, then those of validation; a row is an index of it.
        training: how many of them are for training.
    """

    records: tuple[Record, ...]
    training: int

    @classmethod
    def of(cls, train: Catalog, val: Catalog | None) -> Lists:
        """The records of both catalogs."""
        return cls(train.records + (() if val is None else val.records), len(train))

    def part(self, row: int) -> str:
        """`training` or `validation`."""
        return "training" if row < self.training else "validation"


@dataclass(frozen=True)
class Diagnosis:
    """All that was found.

    Attributes:
        lists: the images.
        facts: numbers by section, as plain values that JSON keeps.
        findings: the faults, worst first.
    """

    lists: Lists
    facts: Mapping[str, Any]
    findings: tuple[Finding, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """The content of doctor.json."""
        return {
            "facts": dict(self.facts),
            "findings": [
                {
                    "kind": found.kind,
                    "severity": found.severity,
                    "title": found.title,
                    "advice": found.advice,
                    "count": found.count,
                    "groups": [
                        {"note": group.note, "images": [self._image(row) for row in group.rows]}
                        for group in found.groups
                    ],
                }
                for found in self.findings
            ],
        }

    def _image(self, row: int) -> dict[str, Any]:
        record = self.lists.records[row]
        return {
            "list": self.lists.part(row),
            "origin": record.origin,
            "image": record.place,
            "label": record.label,
        }


_ORDER: dict[Severity, int] = {"wrong": 0, "doubtful": 1, "note": 2}


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """By severity; within one, as they came."""
    return tuple(sorted(findings, key=lambda found: _ORDER[found.severity]))
