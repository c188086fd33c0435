"""A diagnosis for people at a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lookalike.inspection.issue import Diagnosis, Group, Severity
from lookalike.log import counted

MARKS: dict[Severity, tuple[str, str]] = {
    "wrong": ("wrong", "bold red"),
    "doubtful": ("look", "yellow"),
    "note": ("note", "cyan"),
}
_EXAMPLES = 2


def show(diagnosis: Diagnosis, console: Console) -> None:
    """Print the facts in a few lines, then each finding with examples and what to do."""
    for line in summary(diagnosis):
        console.print(line, markup=False, highlight=False)
    console.print()
    if not diagnosis.findings:
        console.print("nothing wrong was found", style="green")
        return
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 1, 0))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold", ratio=1)
    for found in diagnosis.findings:
        mark, style = MARKS[found.severity]
        lines = [f"[bold]{escape(found.title)}[/bold]"]
        lines += [f"[dim]{escape(example(diagnosis, g))}[/dim]" for g in found.groups[:_EXAMPLES]]
        left = found.count - _EXAMPLES
        lines += [f"[dim]and {left:,} more[/dim]"] if left > 0 and found.groups else []
        lines.append(escape(found.advice))
        table.add_row(f"[{style}]{mark}[/{style}]", f"{found.count:,}", "\n".join(lines))
    console.print(table, highlight=False)


def summary(diagnosis: Diagnosis) -> list[str]:
    """The facts in a line or two each for the lists, the images, their colours and the labels."""
    facts, lines = diagnosis.facts, []
    for part in ("training", "validation"):
        if part in facts:
            its = facts[part]
            sizes = its["images_a_class"]
            lines.append(
                f"{part:11} {counted(its['images'], 'image')} of "
                f"{counted(its['classes'], 'class', 'classes')}; a class has "
                f"{sizes['least']:,} to {sizes['most']:,}, in the middle {sizes['median']:g}"
            )
    if "validation" in facts and facts["validation"]["classes_shared_with_training"]:
        shared = facts["validation"]["classes_shared_with_training"]
        classes = "class of validation is" if shared == 1 else "classes of validation are"
        lines.append(f"{'':11} {shared:,} {classes} in training too")
    if "images" in facts:
        its = facts["images"]
        line = f"{'images':11} {its['read']:,} read at {its['images_per_second']:,.0f} images/s"
        if "width" in its:
            line += (
                f"; {its['width']['median']:g} x {its['height']['median']:g} pixels in the middle; "
                + ", ".join(f"{count:,} {name}" for name, count in its["formats"].items())
            )
        lines.append(line)
        if "width" in its:
            lines.append(
                f"{'':11} {its['smaller_than_the_network_sees']:,} are smaller than the "
                f"{its['network_sees']} pixels that the network sees"
            )
            rgb = ", ".join(f"{value:.2f}" for value in its["mean_rgb"])
            pale = counted(its["without_colours"], "image")
            lines.append(f"{'colours':11} mean of red, green, blue {rgb}; {pale} without colours")
    if "labels" in facts:
        its = facts["labels"]
        lines.append(
            f"{'labels':11} {its['judged']:,} of {counted(its['embedded'], 'image')} judged"
        )
    return lines


def example(diagnosis: Diagnosis, group: Group) -> str:
    """One group in a line: where it stands, and what is said of it."""
    records = diagnosis.lists.records
    named = [
        f"{records[row].origin}: {_end(records[row].place)} ({records[row].label})"
        if records[row].line
        else f"{_end(records[row].place)} ({records[row].label})"
        for row in group.rows[:3]
    ]
    named += ["..."] if len(group.rows) > 3 else []
    return "  =  ".join(named) + (": " if named and group.note else "") + group.note


def _end(place: str) -> str:
    """The last parts of a path, which tell images apart."""
    return place if len(place) <= 50 else "..." + place[-47:]
