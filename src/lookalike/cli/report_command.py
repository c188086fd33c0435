"""Arguments and output of `lookalike report`."""

from __future__ import annotations

from typing import Annotated

import typer

from lookalike.cli.arguments import Device, ImageRoot, LabelColumn, PathColumn


def report(
    run: Annotated[str, typer.Argument(help="An output directory, or its URI.")],
    data: Annotated[
        str | None, typer.Option(help="List to show, in place of the validation list.")
    ] = None,
    compare: Annotated[str | None, typer.Option(help="Another run, to compare with.")] = None,
    output: Annotated[
        str | None, typer.Option(help="File to write; default report.html of the run.")
    ] = None,
    format: Annotated[
        str,
        typer.Option(help="Format of --data, as data.format."),
    ] = "auto",
    split: Annotated[
        str | None, typer.Option(help="Where --data has splits: the one to show.")
    ] = None,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    image_root: ImageRoot = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads that read and decode images.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Write the page of a run: scores, curves, pictures."""
    from lookalike.commands.report import report as command

    command(
        run, data=data, compare=compare, output=output,
        format=format, split=split, path_column=path_column, label_column=label_column,
        image_root=image_root, threads=threads, device=device,
    )  # fmt: skip
