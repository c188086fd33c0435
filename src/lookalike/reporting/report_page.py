"""A report as one HTML file with its pictures inside, which asks nobody for anything."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from lookalike.log import counted
from lookalike.metrics.calibration import Calibration
from lookalike.metrics.verification import PairCounts, Verification, verify
from lookalike.reporting.charts import WIDE, WIDTH, draw, draw_histogram
from lookalike.reporting.embedding_map import flat, sample_points
from lookalike.reporting.evaluation_data import Evidence
from lookalike.reporting.headline import headline, side_by_side, verdict
from lookalike.reporting.image_panels import Album, changed, confused, gallery, points
from lookalike.reporting.metric_curves import curves
from lookalike.reporting.report_data import Content
from lookalike.reporting.slices import slices
from lookalike.reporting.sprite_sheet import Sheet, make_sheet

RATES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""Shares of the different pairs that a threshold lets pass."""

_BARS = 256  # of the histogram
_LARGE, _SMALL = 96, 48  # pixels of a picture in the gallery, and on the map alone


def render(content: Content) -> str:
    """The page.

    Args:
        content: all that is known of the run.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lookalike.reporting", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["counted"] = counted
    environment.filters["count"] = lambda value: f"{value:,}"
    environment.filters["percent"] = lambda value: f"{100 * value:.1f} %"
    environment.filters["cosine"] = lambda value: f"{round(value, 2) + 0.0:.2f}".replace("-", "−")
    environment.filters["points"] = _points
    script = _text(environment, "script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report_page.html.j2").render(
        content=content,
        verdict=verdict(content),
        tiles=headline(content),
        versus=side_by_side(content),
        curves=_curves(content),
        style=_text(environment, "style.css"),
        script=script,
        digest=digest,
        **_of_pictures(content),
    )


def _points(value: float) -> str:
    """A difference in points, with a sign unless it is nothing: `+1.2`, `−0.3`, `0.0`."""
    text = f"{100 * value:+.1f}".replace("-", "−")
    return "0.0" if text[1:] == "0.0" else text


def _text(environment: jinja2.Environment, name: str) -> Markup:
    assert environment.loader is not None
    return Markup(environment.loader.get_source(environment, name)[0].strip())


def _curves(content: Content) -> list[dict[str, Any]]:
    story, other = content.story, content.other
    best = story.best
    found = curves(
        story.metrics,
        () if other is None else other.metrics,
        best=None if best is None else best["step"],
    )
    return [draw(curve) for curve in found]


def _of_pictures(content: Content) -> dict[str, Any]:
    """The parts that show pictures; empty where there is no list."""
    evidence = content.evidence
    if evidence is None:
        empty: dict[str, Any] = {"gallery": [], "confused": [], "changed": [], "histogram": None}
        return empty | {"slices": [], "map": [], "sheets": [], "pictures": {}}
    album = Album(evidence)
    parts: dict[str, Any] = {
        "gallery": gallery(album, content.seed),
        "confused": confused(album),
        "changed": [],
        "histogram": _histogram(content, evidence),
        "slices": slices(evidence),
    }
    if content.other_evidence is not None:
        parts["changed"] = changed(album, content.other_evidence)
    drawn = sample_points(evidence.labels, content.seed)
    places = flat(evidence.vectors[drawn].numpy(), content.seed)
    parts["map"] = [] if places is None else list(points(evidence, drawn, places))
    large = sorted(album.images)
    small = [] if places is None else sorted(set(drawn.tolist()) - album.images.keys())
    sheets = [
        make_sheet(
            evidence.records,
            rows,
            name=name,
            side=side,
            threads=content.threads,
            source=content.source,
        )
        for name, rows, side in (("large", large, _LARGE), ("small", small, _SMALL))
    ]
    return parts | {"sheets": sheets, "pictures": _places(sheets)}


def _places(sheets: list[Sheet]) -> dict[int, tuple[str, str]]:
    """The sheet and the place on it, by image."""
    return {row: (sheet.name, sheet.position(row)) for sheet in sheets for row in sheet.cells}


def _histogram(content: Content, evidence: Evidence) -> dict[str, Any] | None:
    pairs = evidence.pairs
    if not pairs.same.sum() or not pairs.different.sum():
        return None
    told = verify(pairs, RATES)
    threshold, mark = _threshold(content.calibration, told, pairs)
    same, different = (
        counts[:-1].reshape(_BARS, -1).sum(1) for counts in (pairs.same, pairs.different)
    )
    same[-1] += pairs.same[-1]
    different[-1] += pairs.different[-1]
    middles = (np.arange(_BARS) + 0.5) * 2 / _BARS - 1
    return {
        "charts": [
            draw_histogram(same, different, threshold=threshold, width=width)
            for width in (WIDE, WIDTH)
        ],
        "told": told,
        "mark": mark,
        "same_mean": float((same * middles).sum() / same.sum()),
        "different_mean": float((different * middles).sum() / different.sum()),
    }


def _threshold(
    calibration: Calibration | None, told: Verification, pairs: PairCounts
) -> tuple[float, str]:
    """The threshold to mark, and what it does: the model's own, or one that these pairs support."""
    if calibration is not None:
        same, different = pairs.at(calibration.threshold)
        return calibration.threshold, (
            f"The upright line is the model's own threshold, {calibration.threshold:.3f}, measured "
            f"on the {calibration.source}: it lets {100 * different / told.different_pairs:.2g} % "
            f"of these different pairs pass, and {100 * same / told.same_pairs:.1f} % of the same "
            "ones."
        )
    for point in told.operating:
        if point.target == 1e-3:
            return point.threshold, (
                f"The upright line, {point.threshold:.3f}, lets 1 in 1,000 different pairs pass, "
                f"and {100 * point.tar:.1f} % of the same ones."
            )
    return told.eer_threshold, (
        f"The upright line, {told.eer_threshold:.3f}, lets as many different pairs pass as it "
        "refuses same ones."
    )
