"""Arguments and output of `lookalike doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from lookalike.cli.arguments import split_request


def doctor(
    request: Annotated[
        list[str] | None,
        typer.Argument(metavar="[config.yaml] [key=value ...]", help="A file and settings."),
    ] = None,
    train: Annotated[
        list[str] | None,
        typer.Option(help="List of labelled images to learn; several, a pattern, or - for stdin."),
    ] = None,
    val: Annotated[list[str] | None, typer.Option(help="List to measure retrieval on.")] = None,
    run: Annotated[
        str | None, typer.Option(help="A trained run, whose model judges the labels.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="With --run: judge this list, not the training list.")
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="Directory for doctor.json and doctor.html.")
    ] = None,
    images: Annotated[bool, typer.Option(help="Check the images too, not only the lists.")] = True,
) -> None:
    """Check the data: lists and images, and labels by a trained model."""
    from lookalike.config.config import Config

    flags = {"data.train": train or None, "data.val": val or None, "run.output": output}
    files, overrides = split_request(request)
    config = Config.load(files[0] if files else None, overrides, flags)

    from rich.console import Console

    from lookalike.commands.doctor import doctor as command
    from lookalike.inspection.issue_table import show

    found = command(config, run=run, data=data, images=images)
    console = Console()
    show(found, console if console.is_terminal else Console(width=110))
