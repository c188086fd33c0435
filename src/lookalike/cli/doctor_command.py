"""Arguments and output of `lookalike doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from lookalike.cli.arguments import Request, TrainList, ValList, load_config, table_console


def doctor(
    request: Request = None,
    train: TrainList = None,
    val: ValList = None,
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
    """Find faults of lists, images and labels."""
    flags = {"data.train": train, "data.val": val, "run.output": output}
    config = load_config(request, flags)

    from lookalike.commands.doctor import doctor as command
    from lookalike.inspection.issue_table import show

    show(command(config, run=run, data=data, images=images), table_console(110))
