"""Arguments and output of `lookalike plan`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lookalike.cli.arguments import AsJson, split_request


def plan(
    request: Annotated[
        list[str] | None,
        typer.Argument(metavar="[config.yaml] [key=value ...]", help="A file and settings."),
    ] = None,
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
    """Plan a run: bytes, communication and seconds of each worker, before it starts."""
    from rich.console import Console

    from lookalike import log
    from lookalike.commands.plan import plan as command
    from lookalike.config.config import Config
    from lookalike.planning.plan_table import show

    log.start()
    files, overrides = split_request(request)
    found = command(
        Config.load(files[0] if files else None, overrides, {"run.workers": workers}),
        classes=classes, images=images,
        memory=memory, gpu=gpu, machine=machine, measure=measure,
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(found.to_dict()))
    else:
        console = Console()
        show(found, console if console.is_terminal else Console(width=110))
