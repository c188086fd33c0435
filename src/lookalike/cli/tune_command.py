"""Arguments and output of `lookalike tune`."""

from __future__ import annotations

from typing import Annotated

import typer

from lookalike.cli.arguments import BackboneName, LossName, Request, load_config


def tune(
    request: Request = None,
    train: Annotated[
        list[str] | None, typer.Option(help="List of labelled images to search on.")
    ] = None,
    output: Annotated[str | None, typer.Option(help="Directory of the search.")] = None,
    time: Annotated[
        str | None, typer.Option(help="Time of the search in all, as 30m or 2h.")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(help="Trials in all, the recipe's choice included.")
    ] = None,
    over: Annotated[
        list[str] | None,
        typer.Option(
            help="Search this in place of the default space: optim.lr=1e-4..1e-2, or "
            "train.batch_size=32,64; may be given several times."
        ),
    ] = None,
    backbone: BackboneName = None,
    loss: LossName = None,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs of a trial; by default from the time.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Where to begin: auto, component, or a file.")
    ] = None,
) -> None:
    """Search settings on classes held out of the training list.

    The same command resumes. Prints the file of the recipe on stdout, for lookalike train --recipe
    FILE.
    """
    from lookalike.config.config import FLAGS

    given = locals()
    config = load_config(request, {key: given.get(flag) for flag, key in FLAGS.items()})
    from lookalike.commands.tune import tune as command

    found = command(config, time=time, trials=trials, over=over or ())
    typer.echo(found.recipe)
