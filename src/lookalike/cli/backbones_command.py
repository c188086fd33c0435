"""Arguments and output of `lookalike backbones`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from lookalike.cli.arguments import AsJson, table_console


def backbones(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME ...]", help="Backbones, or patterns of timm's names; measured."
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="products, faces, animals or general: the best first.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="The most that training may take, as 8GB or 24GiB.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="tiny, small, base or large.")] = None,
    licence: Annotated[
        str | None,
        typer.Option(help="commercial: weights that allow it; open: without terms of their own."),
    ] = None,
    pretrained_only: Annotated[
        bool, typer.Option("--pretrained-only", help="Only those that timm has weights of.")
    ] = False,
    image_size: Annotated[int, typer.Option(help="Side of the training images.")] = 224,
    batch_size: Annotated[int, typer.Option(help="Images of a step.")] = 64,
    classes: Annotated[int, typer.Option(help="Classes of the training.")] = 1000,
    gpu: Annotated[
        str | None, typer.Option(help="Predict images a second for it, and list what fits it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List backbones by task, memory, speed and licence."""
    from lookalike import log
    from lookalike.commands.backbones import backbones as command
    from lookalike.planning.backbone_table import show

    log.start()
    found = command(
        names or (),
        task=task, memory=memory, size=size, licence=licence, pretrained_only=pretrained_only,
        image_size=image_size, batch_size=batch_size, classes=classes, gpu=gpu,
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(found.to_dict()))
    else:
        show(found, table_console(130))
