"""A diagnosis as one HTML file with its pictures inside, which asks nobody for anything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jinja2

from lookalike.data.loading.image_source import PLAIN, Source
from lookalike.data.loading.thumbnails import data_uris
from lookalike.inspection.issue import Diagnosis, Finding
from lookalike.inspection.issue_table import MARKS, summary

MOST_PICTURES = 360
"""Pictures of a page: some 3 kB each, so that it stays near a megabyte."""

_GROUPS = 24  # of a finding
_ROWS = 6  # of a group
_SIDE = 112  # pixels of a picture


def render(diagnosis: Diagnosis, *, threads: int, source: Source = PLAIN) -> str:
    """The page.

    Args:
        diagnosis: what was found.
        threads: threads that read the pictures; those that cannot be read are left empty.
        source: of the pictures' bytes.
    """
    shown: dict[int, None] = {}
    most = max(12, MOST_PICTURES // max(1, len(diagnosis.findings)))
    sections = [_section(diagnosis, found, shown, most) for found in diagnosis.findings]
    records = [diagnosis.lists.records[row] for row in shown]
    found = data_uris(records, _SIDE, threads, source)
    pictures = {row: uri for row, uri in zip(shown, found, strict=True) if uri}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lookalike.inspection", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["number"] = lambda value: f"{value:,}"
    return environment.get_template("issue_page.html.j2").render(
        lines=[(line[:11].strip(), line[11:].strip()) for line in summary(diagnosis)],
        charts=list(_charts(diagnosis)),
        sections=sections,
        pictures=pictures,
        side=_SIDE,
    )


def _section(
    diagnosis: Diagnosis, found: Finding, shown: dict[int, None], most: int
) -> dict[str, Any]:
    """What the template shows of a finding; notes the rows whose pictures it needs."""
    groups: list[dict[str, Any]] = []
    rows = 0
    for group in found.groups[:_GROUPS]:
        if rows >= most:
            break
        cards = []
        for row in group.rows[:_ROWS]:
            record = diagnosis.lists.records[row]
            cards.append(
                {
                    "row": row,
                    "label": record.label,
                    "place": record.place,
                    "origin": record.origin,
                    "part": diagnosis.lists.part(row),
                }
            )
            if found.kind not in _WITHOUT:
                shown[row] = None
        rows += len(cards)
        groups.append({"note": group.note, "cards": cards, "left": len(group.rows) - len(cards)})
    mark, _ = MARKS[found.severity]
    return {
        "finding": found,
        "mark": mark,
        "groups": groups,
        "left": found.count - len(groups) if found.groups else 0,
        "plain": found.kind in _WITHOUT,
    }


# Findings about the text of the lists, for which no picture is worth its bytes.
_WITHOUT = {"suspicious_paths", "odd_names", "mixed_paths", "empty_classes", "unreadable"}


def _charts(diagnosis: Diagnosis) -> Iterator[dict[str, Any]]:
    """Bars: classes by their images, images by their size."""
    facts = diagnosis.facts
    for part in ("training", "validation"):
        if part in facts:
            yield _chart(f"Classes by images, {part}", facts[part]["classes_by_images"])
    if "shorter_side" in facts.get("images", {}):
        yield _chart("Images by shorter side, pixels", facts["images"]["shorter_side"])


def _chart(title: str, counts: dict[str, int]) -> dict[str, Any]:
    names = [name for name, count in counts.items() if count]  # the first bars may be empty
    counts = dict(list(counts.items())[list(counts).index(names[0]) :])
    most = max(counts.values())
    bars = [
        {"name": name, "count": count, "share": round(100 * count / most, 1)}
        for name, count in counts.items()
    ]
    return {"title": title, "bars": bars}
