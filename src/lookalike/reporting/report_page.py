"""A report as one HTML file with its images inside."""

from __future__ import annotations

from typing import Any

import numpy as np

from lookalike import pages
from lookalike.metrics.calibration import Calibration
from lookalike.metrics.verification import PairCounts, Verification, verify
from lookalike.reporting.charts import WIDE, WIDTH, draw, draw_histogram, metric_curves
from lookalike.reporting.embedding_map import project, sample_points
from lookalike.reporting.evaluation_data import EvaluationData
from lookalike.reporting.headline import compare_scores, headline, score_tiles
from lookalike.reporting.image_panels import (
    ImageCollector,
    changed_queries,
    confused_classes,
    map_points,
    query_panels,
)
from lookalike.reporting.report_data import ReportData
from lookalike.reporting.slices import breakdowns
from lookalike.reporting.sprite_sheet import make_sprite_sheet

RATES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""False accept rates of the table of thresholds."""

_BARS = 256  # of the histogram
_LARGE, _SMALL = 96, 48  # pixels of an image in the panels, and on the map alone


def render(data: ReportData) -> str:
    """The page."""
    best, other = data.history.best, data.other
    curves = metric_curves(
        data.history.metrics,
        () if other is None else other.metrics,
        best=None if best is None else best["step"],
    )
    return pages.render(
        "report.html.j2",
        data=data,
        headline=headline(data),
        tiles=score_tiles(data),
        versus=compare_scores(data),
        curves=[draw(curve) for curve in curves],
        **_evaluation_parts(data),
    )


def _evaluation_parts(data: ReportData) -> dict[str, Any]:
    """Variables of the parts with images; empty without an evaluation."""
    evaluation = data.evaluation
    if evaluation is None:
        empty: dict[str, Any] = {"gallery": [], "confused": [], "changed": [], "histogram": None}
        return empty | {"slices": [], "map": [], "sheets": [], "cells": {}}
    collector = ImageCollector(evaluation)
    parts: dict[str, Any] = {
        "gallery": query_panels(collector, data.seed),
        "confused": confused_classes(collector),
        "changed": [],
        "histogram": _histogram(evaluation, data.calibration),
        "slices": breakdowns(evaluation),
    }
    if data.other_evaluation is not None:
        parts["changed"] = changed_queries(collector, data.other_evaluation)
    drawn = sample_points(evaluation.labels, data.seed)
    positions = project(evaluation.vectors[drawn].numpy(), data.seed)
    parts["map"] = [] if positions is None else list(map_points(evaluation, drawn, positions))
    large = sorted(collector.images)
    small = [] if positions is None else sorted(set(drawn.tolist()) - collector.images.keys())
    sheets = [
        make_sprite_sheet(
            evaluation.records,
            rows,
            name=name,
            side=side,
            source=data.source,
        )
        for name, rows, side in (("large", large, _LARGE), ("small", small, _SMALL))
    ]
    cells = {row: (sheet.name, sheet.position(row)) for sheet in sheets for row in sheet.cells}
    return parts | {"sheets": sheets, "cells": cells}


def _histogram(
    evaluation: EvaluationData, calibration: Calibration | None
) -> dict[str, Any] | None:
    pairs = evaluation.pairs
    if not pairs.same.sum() or not pairs.different.sum():
        return None
    scores = verify(pairs, RATES)
    threshold, mark = _threshold(calibration, scores, pairs)
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
        "scores": scores,
        "mark": mark,
        "same_mean": float((same * middles).sum() / same.sum()),
        "different_mean": float((different * middles).sum() / different.sum()),
    }


def _threshold(
    calibration: Calibration | None, scores: Verification, pairs: PairCounts
) -> tuple[float, str]:
    """The threshold to mark, the model's own or one of these pairs, and its description."""
    if calibration is not None:
        same, different = pairs.at(calibration.threshold)
        return calibration.threshold, (
            f"Vertical line: the model's threshold {calibration.threshold:.3f}, calibrated on the "
            f"{calibration.source}; it accepts {100 * different / scores.different_pairs:.2g} % of "
            f"these pairs of different classes and {100 * same / scores.same_pairs:.1f} % of those "
            "of the same class."
        )
    for point in scores.operating:
        if point.target == 1e-3:
            return point.threshold, (
                f"Vertical line: the threshold {point.threshold:.3f}, which accepts 1 in 1,000 "
                f"pairs of different classes and {100 * point.tar:.1f} % of the same class."
            )
    return scores.eer_threshold, (
        f"Vertical line: the threshold {scores.eer_threshold:.3f} of the equal error rate."
    )
