"""Arguments and output of `lookalike config`."""

from __future__ import annotations

from typing import Annotated

import typer

from lookalike.cli.arguments import Recipe, Request, ValList, load_config


def config(
    request: Request = None,
    train: Annotated[list[str] | None, typer.Option(help="List of labelled images.")] = None,
    val: ValList = None,
    recipe: Recipe = None,
) -> None:
    """Print the settings that training would use, with reasons.

    The output is a YAML file for `lookalike train`.
    """
    from lookalike import log
    from lookalike.commands.show_config import show_config

    log.start()
    flags = {"data.train": train, "data.val": val, "train.recipe": recipe}
    typer.echo(show_config(load_config(request, flags)), nl=False)
