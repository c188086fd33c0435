"""A diagnosis as one HTML file with its pictures inside, which asks nobody for anything."""

from __future__ import annotations

import base64
import io
from collections.abc import Generator, Iterator
from functools import partial
from typing import Any

import jinja2
from PIL import Image

from lookalike.data.batch import made_ahead, read_twice, ticket_of
from lookalike.data.decode import BadImage, decode
from lookalike.data.pixels import picture
from lookalike.data.record import Record
from lookalike.data.source import PLAIN, Source, Tickets
from lookalike.errors import StorageError
from lookalike.inspection.finding import Diagnosis, Finding
from lookalike.inspection.table import MARKS, summary

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
    pictures = _pictures(diagnosis, list(shown), threads, source)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lookalike.inspection", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["number"] = lambda value: f"{value:,}"
    return environment.get_template("page.html.j2").render(
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


def _pictures(
    diagnosis: Diagnosis, rows: list[int], threads: int, source: Source
) -> dict[int, str]:
    """Data URIs of these rows; those that cannot be read are missing."""
    records = diagnosis.lists.records
    found: Generator[str, None, None] = made_ahead(
        (range(row, row + 1) for row in rows),
        lambda one, tickets: _PictureJob(records[one[0]], source, tickets),
        source=source,
        record_of=records.__getitem__,
        threads=threads,
        ahead=16,
    )
    return {row: uri for row, uri in zip(rows, found, strict=True) if uri}


class _PictureJob:
    size = 1

    def __init__(self, record: Record, source: Source, tickets: Tickets | None) -> None:
        self.tickets = tickets
        self._record, self._source = record, source
        self._uri = ""

    def run(self, piece: int) -> None:
        try:
            use = partial(_data_uri, self._record)
            self._uri = read_twice(self._record, use, self._source, ticket_of(self, piece))
        except (BadImage, StorageError):
            self._uri = ""  # the finding says why; the page shows an empty frame

    def result(self) -> str:
        return self._uri


def _data_uri(record: Record, data: bytes) -> str:
    boxed = record.details is not None and record.details.box is not None
    pixels = picture(record, data) if boxed else decode(data, min_size=(_SIDE, _SIDE))
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
