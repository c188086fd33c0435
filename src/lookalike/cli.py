"""The command line: parse and show; no logic, and no torch before it is needed."""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from lookalike import __version__
from lookalike.errors import ConfigError, LookalikeError

app = typer.Typer(
    name="lookalike",
    help="Train image-embedding models from a list of labelled images, and put them to work.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Threads = Annotated[int, typer.Option(help="Threads that read and decode images.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Model = Annotated[str, typer.Argument(help="An output directory, or a model folder.")]


def main() -> None:
    """Run the program; a user's mistake is one line on stderr and exit code 2."""
    from lookalike.launch import end_with_launcher

    end_with_launcher()
    try:
        app()
    except LookalikeError as error:
        _report(error)
        sys.exit(error.exit_code)
    except RuntimeError:
        # A worker loses its peers when one of them ends with an error: that one has spoken.
        if not _peers_ended():
            raise
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        sys.exit(130)


def _peers_ended() -> bool:
    from lookalike.launch import in_worker, somebody_said

    return in_worker() and somebody_said()


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lookalike {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def _split(request: list[str] | None) -> tuple[list[str], list[str]]:
    """The configuration file, if there is one, and the `key=value`s."""
    files = [item for item in request or [] if "=" not in item]
    if len(files) > 1:
        raise ConfigError(f"more than one configuration file: {', '.join(files)}")
    return files, [item for item in request or [] if "=" in item]


def _settings_help() -> str:
    from lookalike.config import keys

    lines = [f"{key} ({kind}, {default}): {text}" for key, (kind, default, text) in keys().items()]
    return "Settings (key=value, or in a YAML file):\n\n" + "\n\n".join(lines).replace("\\|", "|")


@app.command()
def train(
    request: Annotated[
        list[str] | None,
        typer.Argument(metavar="[config.yaml] [key=value ...]", help="A file and settings."),
    ] = None,
    train: Annotated[str | None, typer.Option(help="List of labelled images to learn.")] = None,
    val: Annotated[str | None, typer.Option(help="List to measure retrieval on.")] = None,
    output: Annotated[str | None, typer.Option(help="Directory for the results.")] = None,
    backbone: Annotated[str | None, typer.Option(help="The network; default resnet50.")] = None,
    loss: Annotated[str | None, typer.Option(help="The margin; default amsoftmax.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data; default 200.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes on this machine.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run.")] = False,
    settings: Annotated[bool, typer.Option("--settings", help="List every setting.")] = False,
) -> None:
    """Train a model from a list of labelled images.

    All settings with their meaning: lookalike train --settings.
    """
    from lookalike.config import FLAGS, Config

    if settings:
        typer.echo(_settings_help())
        return
    given = locals()
    flags = {key: given[flag] for flag, key in FLAGS.items()}
    files, overrides = _split(request)
    config = Config.load(files[0] if files else None, overrides, flags)
    if resume and not files and config.run.output is not None:
        from lookalike.fetched import saved_config

        saved = saved_config(config.run.output)
        if saved is not None:
            with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
                copy = Path(folder) / "config.yaml"
                copy.write_bytes(saved)
                config = Config.load(copy, overrides, flags)
    from lookalike.verbs.train import train as verb

    verb(config, resume=resume)


@app.command()
def evaluate(
    model: Model,
    data: Annotated[str, typer.Option(help="List of labelled images.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    format: Annotated[
        str,
        typer.Option(help="auto, image_list, itag, csv, parquet, folder or webdataset."),
    ] = "auto",
    split: Annotated[
        str | None, typer.Option(help="Where the data have splits: the one to measure on.")
    ] = None,
    threads: Threads = 4,
    device: Device = "auto",
) -> None:
    """Measure how well a model retrieves."""
    from lookalike import log
    from lookalike.inference import summary
    from lookalike.verbs.evaluate import evaluate as verb

    log.start(logging.WARNING if as_json else logging.INFO)  # stdout may be for the object
    scores = verb(model, data, format=format, split=split, threads=threads, device=device)
    typer.echo(json.dumps(scores.to_dict()) if as_json else summary(scores))


@app.command()
def embed(
    model: Model,
    images: Annotated[list[str], typer.Argument(help="Folders, lists (.txt) or images.")],
    output: Annotated[str, typer.Option("--output", "-o", help="NAME.parquet or NAME.npy.")],
    threads: Threads = 4,
    device: Device = "auto",
) -> None:
    """Turn images into vectors."""
    from lookalike.verbs.embed import embed as verb

    verb(model, images, output, threads=threads, device=device)


@app.command()
def plan(
    request: Annotated[
        list[str] | None,
        typer.Argument(metavar="[config.yaml] [key=value ...]", help="A file and settings."),
    ] = None,
    classes: Annotated[int | None, typer.Option(help="Classes, in place of a list.")] = None,
    images: Annotated[int | None, typer.Option(help="Images, in place of a list.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes on all machines.")] = None,
    memory: Annotated[
        str | None, typer.Option(help="Of a worker: 80GB, 24GiB; default the machine's.")
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(help="h100, h200, a100, a100-40, l40s, l4, a10, v100 or t4."),
    ] = None,
    machine: Annotated[
        Path | None, typer.Option(help="A YAML file that describes another machine.")
    ] = None,
    measure: Annotated[
        bool, typer.Option(help="Measure this machine where no other is given.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what a run needs: bytes, traffic and seconds of each worker, before it runs."""
    from rich.console import Console

    from lookalike import log
    from lookalike.config import Config
    from lookalike.planning.table import show
    from lookalike.verbs.plan import plan as verb

    log.start(logging.WARNING if as_json else logging.INFO)
    files, overrides = _split(request)
    found = verb(
        Config.load(files[0] if files else None, overrides, {"run.workers": workers}),
        classes=classes, images=images,
        memory=memory, gpu=gpu, machine=machine, measure=measure,
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(found.to_dict()))
    else:
        console = Console()
        show(found, console if console.is_terminal else Console(width=110))


@app.command()
def doctor(
    request: Annotated[
        list[str] | None,
        typer.Argument(metavar="[config.yaml] [key=value ...]", help="A file and settings."),
    ] = None,
    train: Annotated[str | None, typer.Option(help="List of labelled images to learn.")] = None,
    val: Annotated[str | None, typer.Option(help="List to measure retrieval on.")] = None,
    run: Annotated[
        str | None, typer.Option(help="A trained run, whose model judges the labels.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="With --run: judge this list, not the training list.")
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="Directory for doctor.json and doctor.html.")
    ] = None,
    images: Annotated[bool, typer.Option(help="Look into the images, not only at lists.")] = True,
) -> None:
    """Say what is wrong with the data: lists and images, and labels by a trained model."""
    from lookalike.config import Config

    flags = {"data.train": train, "data.val": val, "run.output": output}
    files, overrides = _split(request)
    config = Config.load(files[0] if files else None, overrides, flags)

    from rich.console import Console

    from lookalike.inspection.table import show
    from lookalike.verbs.doctor import doctor as verb

    found = verb(config, run=run, data=data, images=images)
    console = Console()
    show(found, console if console.is_terminal else Console(width=110))


@app.command()
def quickstart(
    output: Annotated[
        str, typer.Option(help="Directory for data and results.")
    ] = "runs/quickstart",
    seed: Annotated[int, typer.Option(help="Everything random follows from it.")] = 0,
) -> None:
    """Train on bundled real images and score on unseen classes, in under three minutes."""
    from lookalike.verbs.quickstart import quickstart as verb

    verb(output, seed=seed)


def _report(error: LookalikeError) -> None:
    """Say it once, whichever workers found it."""
    from lookalike.launch import WorkersFailed, first_to_say

    message = str(error)
    if isinstance(error, WorkersFailed) or not first_to_say(message):
        return
    sys.stderr.write(f"error: {message}\n" if "\n" not in message else f"error:\n{message}\n")
