"""Evaluations as tables of a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from lookalike.evaluation.result import DEFINITIONS, Comparison, Evaluation
from lookalike.log import counted
from lookalike.metrics.bootstrap import Difference, Interval
from lookalike.metrics.verification import RESOLUTION

_TITLES = {
    "map_at_r": "MAP@R",
    "r_precision": "R-precision",
    "mean_average_precision": "mAP, whole ranking",
    "minp": "mINP",
    "nmi": "NMI",
}


def show(found: Comparison, console: Console) -> None:
    """Print the metrics with their intervals, the differences, and the counts."""
    first = found.evaluations[0]
    if len(found.evaluations) == 1:
        put(_figures(first), console)
    else:
        for number, one in enumerate(found.evaluations, 1):
            console.print(f"{number}  {one.model}", markup=False, highlight=False, soft_wrap=True)
        console.print()
        put(_compared(found), console)
    console.print()
    for line in _counts(first):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for one in found.evaluations if first.levels else ():
        console.print()
        put(_levels(one, named=len(found.evaluations) > 1), console)
    if len(first.shots) > 1:
        console.print()
        for one in found.evaluations:
            put(_shots(one, named=len(found.evaluations) > 1), console)
    for one in found.evaluations:
        if one.verification is not None:
            console.print()
            put(_verification(one), console)
            for line in _verification_lines(one):
                console.print(line, markup=False, highlight=False, soft_wrap=True)
    for sentence in found.verdicts:
        console.print()
        console.print(sentence, markup=False, highlight=False, soft_wrap=True, style="bold")


def put(table: Table, console: Console) -> None:
    """Print a table at its full width, so that no number is cut off."""
    options = console.options.update(max_width=100_000)
    table.width = Measurement.get(console, options, table).maximum
    console.print(table, highlight=False, crop=False)


def show_definitions(console: Console) -> None:
    """Print the definition of every metric."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold", ratio=1)
    for name, text in DEFINITIONS.items():
        table.add_row(name, text)
    console.print(table, highlight=False, markup=False)


def title(name: str) -> str:
    """`recall_at_5` as `Recall@5`."""
    for prefix, shown in (("recall_at_", "Recall@"), ("precision_at_", "precision@")):
        if name.startswith(prefix):
            return shown + name.removeprefix(prefix)
    return _TITLES.get(name, name)


def gain(one: Difference) -> tuple[str, str]:
    """A difference and its interval, in points."""
    return f"{100 * one.value:+.1f}", f"{100 * one.low:+.1f} to {100 * one.high:+.1f}"


def columns(*names: str) -> Table:
    """An empty table; all columns but the first are numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for number, name in enumerate(names):
        table.add_column(Text(name), justify="right" if number else "left", no_wrap=True)
    return table


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _range(one: Interval) -> str:
    return f"{_percent(one.low)} to {_percent(one.high)}"


def _figures(one: Evaluation) -> Table:
    table = columns("%", "", "95 % interval")
    for name, interval in one.intervals.items():
        table.add_row(title(name), _percent(interval.value), _range(interval))
    if one.nmi is not None:
        table.add_row(title("nmi"), _percent(one.nmi), "")
    if one.hierarchical is not None:
        table.add_row(
            "H-AP, all levels", _percent(one.hierarchical.value), _range(one.hierarchical)
        )
    return table


def _levels(one: Evaluation, *, named: bool) -> Table:
    heads = [head for name in one.levels for head in (name, "95 % interval")]
    table = columns("% by coarser classes" + (f", {one.model}" if named else ""), *heads)
    for metric in next(iter(one.levels.values())).intervals:
        its = [level.intervals[metric] for level in one.levels.values()]
        cells = [cell for each in its for cell in (_percent(each.value), _range(each))]
        table.add_row(title(metric), *cells)
    return table


def _compared(found: Comparison) -> Table:
    numbers = range(1, len(found.evaluations) + 1)
    more = [head for n in numbers[1:] for head in (f"{n} minus 1", "95 % interval", "p")]
    table = columns("%", *map(str, numbers), *more)
    for name in found.evaluations[0].intervals:
        cells = [_percent(one.intervals[name].value) for one in found.evaluations]
        for difference in found.differences:
            its = difference[name]
            cells += [*gain(its), f"{its.p_value:.2g}"]
        table.add_row(title(name), *cells)
    if found.evaluations[0].nmi is not None:
        cells = [_percent(one.nmi) for one in found.evaluations if one.nmi is not None]
        table.add_row(title("nmi"), *cells)
    return table


def _counts(one: Evaluation) -> list[str]:
    scores = one.scores
    classes = next(iter(one.intervals.values())).classes
    queries = counted(scores.num_queries, "query", "queries")
    lines = [
        f"{queries} of {counted(classes, 'class', 'classes')}, "
        f"{counted(scores.num_gallery, 'image', 'images')} in the gallery ({one.data.name})"
    ]
    if scores.num_lone:
        lone = counted(scores.num_lone, "query", "queries")
        lines.append(f"{lone} skipped: there is nothing to find")
    if one.unreadable:
        lines.append(f"{counted(one.unreadable, 'image', 'images')} skipped: unreadable")
    if one.shots_by == "training" and [shot.name for shot in one.shots] not in ([], ["unseen"]):
        trained = sum(shot.classes for shot in one.shots if shot.name != "unseen")
        lines.append(
            f"{trained:,} of these classes {'was' if trained == 1 else 'were'} trained on; new "
            "classes will score lower"
        )
    return lines


def _shots(one: Evaluation, *, named: bool) -> Table:
    metrics = list(one.shots[0].intervals)
    where = f"classes by {one.shots_by} images" + (f", {one.model}" if named else "")
    heads = [head for name in metrics for head in (f"{title(name)} %", "95 % interval")]
    table = columns(where, "classes", "queries", *heads)
    for shot in one.shots:
        bounds = {"many": f"over {shot.least - 1}", "unseen": "none"}
        name = f"{shot.name} ({bounds.get(shot.name, f'{shot.least} to {shot.most}')})"
        cells = [
            cell
            for metric in metrics
            for cell in (_percent(shot.intervals[metric].value), _range(shot.intervals[metric]))
        ]
        table.add_row(name, f"{shot.classes:,}", f"{shot.queries:,}", *cells)
    return table


def _verification(one: Evaluation) -> Table:
    assert one.verification is not None
    table = columns("same or different", "threshold", "FAR %", "TAR %", "false accepts")
    for point in one.verification.operating:
        table.add_row(
            f"FAR {point.target:g}",
            f"{point.threshold:.4f}",
            f"{100 * point.far:.3g}",
            _percent(point.tar),
            f"{point.false_accepts:,}",
        )
    return table


def _verification_lines(one: Evaluation) -> list[str]:
    found = one.verification
    assert found is not None
    lines = [
        f"AUC {found.auc:.4f}; equal error rate {100 * found.eer:.2f} % at "
        f"{found.eer_threshold:.4f}; best balanced accuracy "
        f"{100 * found.balanced_accuracy:.1f} % at {found.balanced_threshold:.4f}",
        f"{counted(found.same_pairs, 'pair')} of one class, {found.different_pairs:,} of two; "
        "thresholds "
        f"in steps of {RESOLUTION:.2g}",
    ]
    if found.unsupported:
        rates = ", ".join(f"{far:g}" for far in found.unsupported)
        lines.append(f"too few pairs for FAR {rates}: ten false accepts would be expected or less")
    if one.calibration_check is not None:
        check = one.calibration_check
        word = "as expected" if check.holds else "NOT as expected"
        lines.append(
            f"the model's own threshold, {check.threshold:.4f} for a FAR of {check.target:g}: "
            f"FAR {100 * check.far:.3g} % here, {word} "
            f"({100 * check.far_low:.3g} to {100 * check.far_high:.3g} %), TAR "
            f"{_percent(check.tar)} %"
        )
    return lines
