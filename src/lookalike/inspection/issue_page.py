"""A diagnosis as one HTML file with its images inside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lookalike import pages
from lookalike.data.loading.image_source import PLAIN, Source
from lookalike.data.loading.thumbnails import data_uris
from lookalike.inspection.issue import Diagnosis, Issue
from lookalike.inspection.issue_table import MARKS, summary

MOST_IMAGES = 360
"""Images of a page: some 3 kB each, so that it stays near a megabyte."""

_GROUPS = 24  # of an issue
_ROWS = 6  # of a group
_SIDE = 112  # pixels of an image

_WITHOUT_IMAGES = {
    "suspicious_paths", "odd_names", "mixed_paths", "empty_classes", "unreadable"
}  # fmt: skip
"""Issues of the text of the lists."""


def render(diagnosis: Diagnosis, source: Source = PLAIN) -> str:
    """The page; frames of images that cannot be read stay empty."""
    shown: dict[int, None] = {}
    most = max(12, MOST_IMAGES // max(1, len(diagnosis.issues)))
    sections = [_section(diagnosis, issue, shown, most) for issue in diagnosis.issues]
    records = [diagnosis.lists.records[row] for row in shown]
    uris = data_uris(records, _SIDE, source)
    return pages.render(
        "doctor.html.j2",
        facts=summary(diagnosis),
        charts=list(_charts(diagnosis)),
        sections=sections,
        images={row: uri for row, uri in zip(shown, uris, strict=True) if uri},
    )


def _section(
    diagnosis: Diagnosis, issue: Issue, shown: dict[int, None], most: int
) -> dict[str, Any]:
    """Variables of an issue; adds the rows whose images it needs to `shown`."""
    groups: list[dict[str, Any]] = []
    plain = issue.kind in _WITHOUT_IMAGES
    rows = 0
    for group in issue.groups[:_GROUPS]:
        if rows >= most:
            break
        cards = []
        for row in group.rows[:_ROWS]:
            record = diagnosis.lists.records[row]
            cards.append(
                {
                    "row": row,
                    "label": diagnosis.label(row),
                    "place": record.place,
                    "origin": record.origin,
                    "part": diagnosis.lists.part(row),
                }
            )
            if not plain:
                shown[row] = None
        rows += len(cards)
        groups.append({"note": group.note, "cards": cards, "left": len(group.rows) - len(cards)})
    return {
        "issue": issue,
        "mark": MARKS[issue.severity][0],
        "groups": groups,
        "left": issue.count - len(groups) if issue.groups else 0,
        "plain": plain,
    }


def _charts(diagnosis: Diagnosis) -> Iterator[dict[str, Any]]:
    """Bars: classes by number of images, images by size."""
    facts = diagnosis.facts
    for part in ("training", "validation"):
        if part in facts:
            yield _chart(f"Classes by number of images, {part}", facts[part]["classes_by_images"])
    if "shorter_side" in facts.get("images", {}):
        yield _chart("Images by shorter side in pixels", facts["images"]["shorter_side"])


def _chart(title: str, counts: dict[str, int]) -> dict[str, Any]:
    bars = list(counts.items())
    while not bars[0][1]:  # the first bars may be empty
        bars.pop(0)
    most = max(counts.values())
    return {
        "title": title,
        "bars": [
            {"name": name, "count": count, "share": round(100 * count / most, 1)}
            for name, count in bars
        ],
    }
