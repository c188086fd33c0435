"""Arguments and output of `lookalike config`."""

from __future__ import annotations

from typing import Annotated

import typer

from lookalike.cli.arguments import split_request


def config(
    request: Annotated[
        list[str] | None,
        typer.Argument(metavar="[config.yaml] [key=value ...]", help="A file and settings."),
    ] = None,
    train: Annotated[list[str] | None, typer.Option(help="List of labelled images.")] = None,
    val: Annotated[list[str] | None, typer.Option(help="List to measure retrieval on.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Choice of settings left open: auto, component, or a file.")
    ] = None,
) -> None:
    """Print the settings that training would use, with the reasons of the recipe.

    The output is a YAML file for `lookalike train`.
    """
    from lookalike import log
    from lookalike.commands.show_config import show_config
    from lookalike.config.config import Config

    log.start()
    files, overrides = split_request(request)
    flags = {"data.train": train or None, "data.val": val or None, "train.recipe": recipe}
    typer.echo(show_config(Config.load(files[0] if files else None, overrides, flags)), nl=False)
