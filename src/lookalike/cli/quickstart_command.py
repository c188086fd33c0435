"""Arguments and output of `lookalike quickstart`."""

from __future__ import annotations

from typing import Annotated

import typer

from lookalike.cli.arguments import show_run


def quickstart(
    output: Annotated[
        str, typer.Option(help="Directory for data and results.")
    ] = "runs/quickstart",
    seed: Annotated[int, typer.Option(help="Everything random follows from it.")] = 0,
) -> None:
    """Train on bundled images in three minutes."""
    from lookalike.commands.quickstart import quickstart as command

    show_run(command(output, seed=seed))
