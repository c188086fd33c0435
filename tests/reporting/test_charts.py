"""Curves and histograms."""

import re

import numpy as np
import pytest

from lookalike.reporting.charts import (
    MOST_POINTS,
    draw,
    draw_histogram,
    metric_curves,
    nice,
    number,
)


def test_long_curves_are_averaged_in_intervals():
    random = np.random.default_rng(0)
    values = random.normal(5, 1, 1000).tolist()
    metrics = [
        {"step": i + 1, "loss": None if i == 500 else value, "lr": 0.1, "skipped": 0}
        for i, value in enumerate(values)
    ]
    metrics.insert(0, {"step": 0, "recall_at_1": 0.5, "map_at_r": 0.25, "r_precision": 0.3})
    found = {one.title: one for one in metric_curves(metrics, best=0)}
    assert list(found) == ["Validation", "Loss", "Learning rate"]
    [line] = found["Loss"].lines
    assert len(line.steps) == MOST_POINTS
    assert np.nanmin(line.low) == min(v for i, v in enumerate(values) if i != 500)
    assert np.all(line.low <= line.values)
    assert np.all(line.values <= line.high)
    drawn = draw(found["Loss"])
    assert drawn["lines"][0]["band"]
    assert [one.name for one in found["Validation"].lines] == ["Recall@1", "MAP@R", "R-precision"]
    assert draw(found["Validation"])["lines"][0]["dots"]


def test_curves_of_two_runs_share_their_axes():
    ours = [{"step": i, "loss": 1.0 + i, "lr": 0.1} for i in range(1, 5)]
    theirs = [{"step": i, "loss": 2000.0, "lr": 0.1} for i in range(1, 9)]
    drawn = draw(next(one for one in metric_curves(ours, theirs, best=None) if one.title == "Loss"))
    assert drawn["names"] == ["loss", "loss (other)"]
    assert drawn["logarithmic"]
    assert [tick.text for tick in drawn["y"]] == ["1", "10", "100", "1,000", "10,000"]
    ends = [line["points"][-1][0] for line in drawn["lines"]]
    assert ends[0] < ends[1] == pytest.approx(drawn["right"])


def test_a_loss_that_is_never_finite_is_an_empty_chart():
    metrics = [{"step": i, "loss": None, "lr": 0.1, "skipped": i} for i in range(1, 5)]
    found = {one.title: draw(one) for one in metric_curves(metrics, best=None)}
    assert found["Loss"]["empty"]
    assert any(title.startswith("Skipped steps") for title in found)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 0.93), (0, 1e-4), (3, 3), (-2, 7), (0, 12345), (0.81, 0.83)]
)
def test_ticks_are_round_and_enclose_the_values(low, high):
    ticks, first, last = nice(low, high, 4)
    assert first <= low <= high <= last
    assert 2 <= len(ticks) <= 7
    assert all(len(number(tick)) <= 7 for tick in ticks)


def test_a_histogram_has_the_shares_of_its_bins():
    same, different = np.zeros(8, int), np.zeros(8, int)
    same[5:7], different[2:5] = [10, 20], [5, 50, 25]
    drawn = draw_histogram(same, different, threshold=0.1)
    assert drawn["same"].count("L") == 2 * 2 + 1
    assert drawn["different"].count("L") == 2 * 3 + 1
    assert drawn["left"] < drawn["threshold"] < drawn["right"]
    corners = re.findall(r"[ML]([\d.]+) ([\d.]+)", drawn["same"])
    heights = [float(corners[1][1]), float(corners[3][1])]
    base, top = drawn["bottom"], drawn["top"]
    assert (base - heights[0]) / (base - top) == pytest.approx(0.5, abs=0.01)
    assert (base - heights[1]) / (base - top) == pytest.approx(1.0)
