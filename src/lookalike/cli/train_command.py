"""Arguments and output of `lookalike train`."""

from __future__ import annotations

from typing import Annotated

import typer

from lookalike.cli.arguments import (
    BackboneName,
    LossName,
    Recipe,
    Request,
    TrainList,
    ValList,
    file_of,
    load_config,
    show_run,
)


def train(
    request: Request = None,
    train: TrainList = None,
    val: ValList = None,
    output: Annotated[str | None, typer.Option(help="Directory for the results.")] = None,
    backbone: BackboneName = None,
    loss: LossName = None,
    epochs: Annotated[
        int | None,
        typer.Option(help="Passes over the data; by default from the number of images."),
    ] = None,
    recipe: Recipe = None,
    workers: Annotated[int | None, typer.Option(help="Processes on this machine.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the run from its newest checkpoint.")
    ] = False,
    settings: Annotated[bool, typer.Option("--settings", help="List every setting.")] = False,
) -> None:
    """Train a model from a list of labelled images.

    Prints the directory of the run on stdout. All settings with their meaning: lookalike train
    --settings.
    """
    from lookalike.config.config import FLAGS

    if settings:
        typer.echo(_settings_help())
        return
    given = locals()
    config = load_config(request, {key: given[flag] for flag, key in FLAGS.items()})
    if not resume and config.train.recipe in ("auto", "component"):  # a file may name them
        config.require_list_and_output()  # before torch is imported, which takes seconds
    from lookalike.commands.train import train as command
    from lookalike.planning.choice import with_choices
    from lookalike.planning.recipe import choose_by_file
    from lookalike.training.open_run import resumed_request

    if resume and file_of(request) is None:
        output = with_choices(config, choose_by_file(config)).run.output
        config = resumed_request(config, output)
    show_run(command(config, resume=resume))


def _settings_help() -> str:
    from lookalike.config.config import keys, popular_keys

    known, first = keys(), popular_keys()
    lines = [
        f"{key} ({known[key][0]}, {_default(key, known[key][1])}): {known[key][2]}"
        for key in (*first, *(key for key in known if key not in first))
    ]
    lines.insert(len(first), "The others:")
    return (
        "Settings (key=value, or in a YAML file), those that matter most first. In brackets: type "
        "and default;\nrecipe: chosen from data, network and machine (`lookalike config` shows the "
        "choice), and its default\nwith --recipe component; -: none, inferred, or the recommended "
        "value.\n\n" + "\n\n".join(lines)
    ).replace("\\|", "|")


def _default(key: str, default: str) -> str:
    from lookalike.config.config import CHOSEN_BY_RECIPE

    return f"recipe; component: {default}" if key in CHOSEN_BY_RECIPE else default
