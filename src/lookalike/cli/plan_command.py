"""Arguments and output of `lookalike plan`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lookalike.cli.arguments import AsJson, Request, load_config, table_console


def plan(
    request: Request = None,
    classes: Annotated[int | None, typer.Option(help="Classes, in place of a list.")] = None,
    images: Annotated[int | None, typer.Option(help="Images, in place of a list.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes on all machines.")] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="Of a worker, as 80GB or 24GiB; default the machine's."),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(help="h100, h200, a100, a100-40, l40s, l4, a10, v100 or t4."),
    ] = None,
    machine: Annotated[
        Path | None, typer.Option(help="A YAML file that describes another machine.")
    ] = None,
    measure: Annotated[
        bool, typer.Option(help="Time real steps on this machine where no other is given.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Estimate memory, communication and time of a run in advance."""
    from lookalike import log
    from lookalike.commands.plan import plan as command
    from lookalike.planning.plan_table import show

    log.start()
    found = command(
        load_config(request, {"run.workers": workers}),
        classes=classes, images=images,
        memory=memory, gpu=gpu, machine=machine, measure=measure,
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(found.to_dict()))
    else:
        show(found, table_console(110))
