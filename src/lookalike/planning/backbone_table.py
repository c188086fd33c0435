"""A list of backbones as a table."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from lookalike.data.image_size import size_text
from lookalike.planning.backbone_list import BackboneEntry, BackboneList
from lookalike.storage.byte_size import in_words

_LICENCES = {"yes": "", "terms": " (terms)", "no": " (research only)", "unknown": " (unclear)"}


def show(found: BackboneList, console: Console) -> None:
    """Print the table, the evidence for the task, and what the bytes are of."""
    table = Table(box=None, pad_edge=False)
    table.add_column("backbone", no_wrap=True)
    speed = [] if found.machine is None else [f"images/s, {found.machine.name}"]
    for name in ("made at", "M params", "GMAC", "training", *speed):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("pooling", no_wrap=True)
    table.add_column("licence", overflow="fold")
    for entry in found.entries:
        table.add_row(*_cells(found, entry))
    console.print(table)
    if not found.entries:
        console.print("none: relax a filter")
    if found.task is not None:
        _print(console, "")
        for family, text in _evidence(found):
            _print(console, f"{family}: {text}")
    _print(console, "")
    _print(
        console,
        f"training: bytes of a GPU with batches of {found.batch_size} images of "
        f"{size_text(found.image_size)} px, {found.classes:,} classes, AdamW, bfloat16; GMAC: "
        "forward pass of one image of that size; made at: the size of the pretrained weights, "
        "which are resized to yours; pooling: of the published model, for model.pooling.",
    )
    if any(entry.commercial == "terms" for entry in found.entries):
        _print(console, "(terms): commercial use under terms of its own; read them first.")
    if found.omitted:
        counts: dict[str, int] = {}
        for reason in found.omitted.values():
            counts[reason] = counts.get(reason, 0) + 1
        left_out = ", ".join(f"{count} by {reason}" for reason, count in counts.items())
        _print(console, f"left out: {left_out}")


def _cells(found: BackboneList, entry: BackboneEntry) -> list[str]:
    facts = entry.facts
    height, width = facts.native
    speed = [] if found.machine is None else [f"{entry.images_per_second or 0:,.0f}"]
    return [
        facts.name,
        size_text(height if height == width else facts.native),
        f"{facts.parameters / 1e6:.1f}",
        f"{facts.macs / 1e9:.2f}",
        in_words(entry.training_bytes),
        *speed,
        entry.pooling or "-",
        (facts.licence or "none stated") + _LICENCES[entry.commercial],
    ]


def _evidence(found: BackboneList) -> list[tuple[str, str]]:
    """Families in order, with what is known of them for the task."""
    assert found.task is not None
    lines: dict[str, str] = {}
    for entry in found.entries:
        claim = entry.tasks.get(found.task)
        if claim is not None:
            lines[entry.family] = f"{claim.text} [{claim.source}]"
    return list(lines.items())


def _print(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, markup=False, highlight=False)
