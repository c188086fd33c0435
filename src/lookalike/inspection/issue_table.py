"""A diagnosis on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lookalike.inspection.issue import Diagnosis, Group, Severity
from lookalike.log import counted

MARKS: dict[Severity, tuple[str, str]] = {
    "wrong": ("wrong", "bold red"),
    "doubtful": ("check", "yellow"),
    "note": ("note", "cyan"),
}
_EXAMPLES = 2


def show(diagnosis: Diagnosis, console: Console) -> None:
    """Print the facts in a few lines, then each issue with examples and advice."""
    for name, text in summary(diagnosis):
        console.print(f"{name:11} {text}", markup=False, highlight=False)
    console.print()
    if not diagnosis.issues:
        console.print("no issues", style="green")
        return
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 1, 0))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold", ratio=1)
    for issue in diagnosis.issues:
        mark, style = MARKS[issue.severity]
        lines = [f"[bold]{escape(issue.title)}[/bold]"]
        lines += [f"[dim]{escape(example(diagnosis, g))}[/dim]" for g in issue.groups[:_EXAMPLES]]
        left = issue.count - _EXAMPLES
        lines += [f"[dim]and {left:,} more[/dim]"] if left > 0 and issue.groups else []
        lines.append(escape(issue.advice))
        table.add_row(f"[{style}]{mark}[/{style}]", f"{issue.count:,}", "\n".join(lines))
    console.print(table, highlight=False)


def summary(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    """(name, text) of the lists, the images, their colours and the labels; "" continues."""
    facts, lines = diagnosis.facts, []
    for part in ("training", "validation"):
        if part in facts:
            its = facts[part]
            sizes = its["images_a_class"]
            lines.append(
                (
                    part,
                    f"{counted(its['images'], 'image')} of "
                    f"{counted(its['classes'], 'class', 'classes')}; {sizes['least']:,} to "
                    f"{sizes['most']:,} images per class, median {sizes['median']:g}",
                )
            )
    if "validation" in facts and facts["validation"]["classes_shared_with_training"]:
        shared = facts["validation"]["classes_shared_with_training"]
        classes = "class of validation is" if shared == 1 else "classes of validation are"
        lines.append(("", f"{shared:,} {classes} in training too"))
    if "images" in facts:
        its = facts["images"]
        text = f"{its['read']:,} read at {its['images_per_second']:,.0f} images/s"
        if "width" in its:
            text += (
                f"; median size {its['width']['median']:g} x {its['height']['median']:g} pixels; "
                + ", ".join(f"{count:,} {name}" for name, count in its["formats"].items())
            )
        lines.append(("images", text))
        if "width" in its:
            smaller = its["smaller_than_the_network_sees"]
            lines.append(
                (
                    "",
                    f"{counted(smaller, 'image')} smaller than the network's input of "
                    f"{its['network_sees']} pixels",
                )
            )
            rgb = ", ".join(f"{value:.2f}" for value in its["mean_rgb"])
            grey = counted(its["without_colours"], "image")
            lines.append(("colours", f"mean of red, green, blue {rgb}; {grey} without colours"))
    if "labels" in facts:
        its = facts["labels"]
        embedded = counted(its["embedded"], "image")
        lines.append(("labels", f"{its['judged']:,} of {embedded} judged"))
    return lines


def example(diagnosis: Diagnosis, group: Group) -> str:
    """One group in a line: its images and its note."""
    records = diagnosis.lists.records
    named = [
        f"{records[row].origin}: {_end(records[row].place)} ({diagnosis.label(row)})"
        if records[row].line
        else f"{_end(records[row].place)} ({diagnosis.label(row)})"
        for row in group.rows[:3]
    ]
    named += ["..."] if len(group.rows) > 3 else []
    return "  =  ".join(named) + (": " if named and group.note else "") + group.note


def _end(place: str) -> str:
    return place if len(place) <= 50 else "..." + place[-47:]
