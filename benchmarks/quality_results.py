"""Tables and plots of `quality.py`: means over seeds, intervals by class, differences by class."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lookalike.metrics.bootstrap import Difference, Interval, differences, mean_intervals
from quality_study import TUNING, Study, StudyError, tuning_of
from quality_trial import METRICS

TITLES = {"recall_at_1": "Recall@1", "map_at_r": "MAP@R"}
Line = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """A method on one set in one regime, at one length.

    Attributes:
        method: its name.
        scale: of the regime's epochs.
        seeds: that are done.
        seconds: of CPU in training, the mean over seeds.
        total_seconds: of CPU in training, of all seeds, and of the tuning where it is tuned.
        tuning_trials: of a tuned method.
        values: metric to (Q,), the mean over seeds of each query.
        by_seed: metric to (n,), the score of each seed.
        classes: (Q,) the class of each query.
        notes: of trials that diverged.
    """

    method: str
    scale: float
    seeds: tuple[int, ...]
    seconds: float
    total_seconds: float
    tuning_trials: int
    values: dict[str, np.ndarray]
    by_seed: dict[str, np.ndarray]
    classes: np.ndarray
    notes: tuple[str, ...]

    @property
    def label(self) -> str:
        tuned = f" ({self.tuning_trials} trials)" if self.tuning_trials else ""
        return f"{self.method}{tuned}" + ("" if self.scale == 1 else f" × {self.scale:g}")

    @property
    def is_ours(self) -> bool:
        return self.method.partition(":")[0] == "ours"

    @property
    def is_peer(self) -> bool:
        return not self.is_ours and self.method not in ("frozen", "component")

    def intervals(self) -> dict[str, Interval]:
        return mean_intervals(self.values, self.classes)

    def score(self, metric: str) -> float:
        return float(self.values[metric].mean())


def cells(study: Study) -> dict[tuple[str, str], list[Row]]:
    """The rows of each set and regime, the best MAP@R first."""
    groups: dict[tuple[str, str], dict[tuple[str, float], list[Line]]] = {}
    for line in study.lines():
        cell = groups.setdefault((line["set"], line["regime"]), {})
        cell.setdefault((line["method"], line["scale"]), []).append(line)
    tuning = study.lines(TUNING)
    return {
        cell: sorted(
            (_row(study.folder, lines, tuning) for lines in methods.values()),
            key=lambda row: -row.score("map_at_r"),
        )
        for cell, methods in sorted(groups.items())
    }


def _row(folder: Path, lines: Sequence[Line], tuning: Sequence[Line]) -> Row:
    lines = sorted(lines, key=lambda line: line["seed"])
    loaded = [_queries(folder / line["queries"]) for line in lines]
    classes = loaded[0]["classes"]
    for line, queries in zip(lines, loaded, strict=True):
        if not np.array_equal(queries["classes"], classes):
            raise StudyError(
                f"{folder / line['queries']}: other queries than seed {lines[0]['seed']} has: the"
                f" test list of {line['set']} has changed; begin another study"
            )
    seconds = [line["cpu_seconds"] for line in lines]
    trials = tuning_of(tuning, lines[0]) if lines[0]["method"].endswith(":tuned") else []
    return Row(
        method=lines[0]["method"],
        scale=lines[0]["scale"],
        seeds=tuple(line["seed"] for line in lines),
        seconds=float(np.mean(seconds)),
        total_seconds=float(np.sum(seconds)) + sum(line["cpu_seconds"] for line in trials),
        tuning_trials=len(trials),
        values={m: np.mean([queries[m] for queries in loaded], axis=0) for m in METRICS},
        by_seed={m: np.array([queries[m].mean() for queries in loaded]) for m in METRICS},
        classes=classes,
        notes=tuple(line["note"] for line in lines if line["note"]),
    )


def _queries(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def advantages(reference: Row, row: Row) -> dict[str, Difference]:
    """The reference's scores minus the row's, paired by query, resampled by class."""
    if not np.array_equal(reference.classes, row.classes):
        raise StudyError(
            f"{reference.label} and {row.label} have other queries: the test list has changed;"
            " begin another study"
        )
    return differences(row.values, reference.values, reference.classes)


def table(study: Study, reference: str = "ours") -> str:
    """All cells as Markdown; differences are `reference` minus the row."""
    found = cells(study)
    if not found:
        raise StudyError(f"{study.folder}: no finished trial; begin with `run`")
    parts = [_table_of(cell, rows, reference) for cell, rows in found.items()]
    hours = sum(row.total_seconds for rows in found.values() for row in rows) / 3600
    parts.append(f"{hours:.1f} hours of CPU in training stand behind these figures.")
    return "\n\n".join(parts) + "\n"


def overview(study: Study, scale: float) -> str:
    """Scores of all methods in all cells at one length as Markdown, seeds averaged.

    The last line has the differences of `ours` and the best peer of each cell, by the sum of both
    scores.
    """
    found = cells(study)
    by_cell = {
        cell: {row.method: row for row in rows if row.scale == scale or row.method == "frozen"}
        for cell, rows in found.items()
    }
    methods = dict.fromkeys(method for rows in by_cell.values() for method in rows)
    ordered = sorted(methods, key=lambda method: (method != "frozen", method != "ours", method))
    lines = [
        f"| method | {' | '.join(', '.join(cell) for cell in by_cell)} |",
        f"|{' --- |' * (len(by_cell) + 1)}",
    ]
    for method in ordered:
        scores = [_scores(rows.get(method)) for rows in by_cell.values()]
        lines.append(f"| {method} | {' | '.join(scores)} |")
    gains = [_gain(rows) for rows in by_cell.values()]
    lines.append(f"| ours − the best peer | {' | '.join(gains)} |")
    return "\n".join(lines) + "\n"


def _scores(row: Row | None) -> str:
    if row is None:
        return ""
    seeds = f" ({len(row.seeds)})" if len(row.seeds) > 1 else ""
    return " / ".join(f"{100 * row.score(metric):.1f}" for metric in METRICS) + seeds


def _gain(rows: Mapping[str, Row]) -> str:
    peers = [row for row in rows.values() if row.is_peer]
    if "ours" not in rows or not peers:
        return ""
    best = max(peers, key=lambda row: sum(row.score(metric) for metric in METRICS))
    by_metric = advantages(rows["ours"], best)
    return " / ".join(_points(by_metric[metric]) for metric in METRICS)


def _table_of(cell: tuple[str, str], rows: Sequence[Row], reference: str) -> str:
    by_scale = {row.scale: row for row in rows if row.method == reference}
    longest = by_scale[max(by_scale)] if by_scale else None
    lines = [f"### {cell[0]}, {cell[1]}", ""]
    heads = ["method", *TITLES.values(), *(f"{reference} − it: {t}" for t in TITLES.values())]
    lines.append(f"| {' | '.join([*heads, 'CPU s', 'seeds', 'CPU h of all'])} |")
    lines.append(f"|{' --- |' * (len(heads) + 3)}")
    for row in rows:
        scores, gains = row.intervals(), ["", ""]
        own = longest if row.method == "frozen" else by_scale.get(row.scale)
        if own is not None and own is not row:
            by_metric = advantages(own, row)
            gains = [_points(by_metric[metric]) for metric in METRICS]
        cells_ = [row.label, *(_percent(scores[m], row.by_seed[m]) for m in METRICS), *gains]
        marks = f" ({len(row.notes)} diverged)" if row.notes else ""
        cells_ += [f"{row.seconds:,.0f}", f"{len(row.seeds)}{marks}"]
        lines.append(f"| {' | '.join(cells_)} | {row.total_seconds / 3600:.2f} |")
    if longest is not None:
        lines += ["", *verdicts(longest, rows)]
    return "\n".join(lines)


def verdicts(own: Row, rows: Sequence[Row]) -> list[str]:
    """A sentence for each metric on the best peer of the same length, and one on the start."""
    found = []
    peers = [row for row in rows if row.is_peer and row.scale == own.scale]
    for metric, title in TITLES.items():
        if not peers:
            break
        best = max(peers, key=lambda row: row.score(metric))
        gain = advantages(own, best)[metric]
        verdict = (
            "above"
            if gain.low > 0
            else "below"
            if gain.high < 0
            else "not significantly different from"
        )
        found.append(
            f"- {title}: {own.label} is {verdict} the best peer, {best.label}: {_points(gain)};"
            f" {_time_to_reach(best, metric, rows, own.method)}"
        )
    for frozen in (row for row in rows if row.method == "frozen"):
        change = advantages(own, frozen)
        said = ", ".join(f"{TITLES[m]} {_points(change[m])}" for m in METRICS)
        below = [TITLES[m] for m in METRICS if change[m].high < 0]
        end = f"below it in {' and '.join(below)}" if below else "not below it"
        found.append(f"- Start: {own.label} ends {end}: {said}")
    return found


def _time_to_reach(best: Row, metric: str, rows: Sequence[Row], method: str) -> str:
    """Time of the shortest run of a method that reaches a peer's score."""
    enough = [
        row for row in rows if row.method == method and row.score(metric) >= best.score(metric)
    ]
    if not enough:
        return "no length of it reaches that score"
    fastest = min(enough, key=lambda row: row.seconds)
    share = fastest.seconds / best.seconds
    return f"{fastest.label} reaches that score in {share:.2f} of the peer's time"


def _percent(score: Interval, seeds: np.ndarray) -> str:
    text = f"{100 * score.value:.1f} [{100 * score.low:.1f}, {100 * score.high:.1f}]"
    return text if len(seeds) == 1 else f"{text} ± {100 * seeds.std(ddof=1):.1f}"


def _points(gain: Difference) -> str:
    return f"{100 * gain.value:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"


def plot(study: Study, path: Path) -> None:
    """Recall@1 and MAP@R against seconds of CPU, a row of two charts for each set and regime.

    Ours with other settings is left out: the table has it.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = {
        cell: [row for row in rows if not row.method.startswith("ours:")]
        for cell, rows in cells(study).items()
    }
    if not found:
        raise StudyError(f"{study.folder}: no finished trial; begin with `run`")
    figure, axes = pyplot.subplots(
        len(found), 2, figsize=(12, 4.2 * len(found)), squeeze=False, layout="constrained"
    )
    methods = sorted({row.method for rows in found.values() for row in rows} - {"frozen", "ours"})
    reds = (6, 7)
    palette = [matplotlib.colormaps["tab20"](n) for n in range(20) if n not in reds]
    colours = {name: palette[number % len(palette)] for number, name in enumerate(methods)}
    colours["ours"] = "red"
    for pair, ((name, regime), rows) in zip(axes, found.items(), strict=True):
        for axis, (metric, title) in zip(pair, TITLES.items(), strict=True):
            _draw(axis, rows, metric, colours)
            axis.set(title=f"{name}, {regime}", xlabel="seconds of CPU", ylabel=f"{title}, %")
        pair[1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
    figure.savefig(path)
    pyplot.close(figure)


def _draw(axis: Any, rows: Sequence[Row], metric: str, colours: Mapping[str, str]) -> None:
    for method in dict.fromkeys(row.method for row in rows):
        line = sorted((row for row in rows if row.method == method), key=lambda row: row.seconds)
        heights = [100 * row.score(metric) for row in line]
        if method == "frozen":
            axis.axhline(heights[0], color="grey", linestyle="--", label="frozen start")
            continue
        bounds = [row.intervals()[metric] for row in line]
        errors = [
            [height - 100 * b.low for height, b in zip(heights, bounds, strict=True)],
            [100 * b.high - height for height, b in zip(heights, bounds, strict=True)],
        ]
        axis.errorbar(
            [row.seconds for row in line], heights, yerr=errors,
            label=textwrap.fill(method.replace(",", ", "), 36),
            color=colours[method], marker="o" if line[0].is_ours else "s", capsize=2,
            linewidth=2 if line[0].is_ours else 1,
        )  # fmt: skip
    axis.grid(alpha=0.3)
    axis.set_xlim(0, 1.08 * max([1.0, *(row.seconds for row in rows)]))
