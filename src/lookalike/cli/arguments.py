"""Arguments that several commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike.errors import ConfigError

if TYPE_CHECKING:
    from lookalike.run import Run

Command = Callable[..., None]

Format = Annotated[
    str, typer.Option(help="auto, image_list, itag, csv, parquet, folder, webdataset or recordio.")
]
MeasuredSplit = Annotated[
    str | None, typer.Option(help="Where the data have splits: the one to measure on.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Model = Annotated[
    str, typer.Argument(help="An output directory, a model folder, or an .onnx file.")
]


def _read_flags(
    threads: Annotated[int, typer.Option(help="Threads that read and decode images.")] = 4,
    cache: Annotated[
        str | None,
        typer.Option(help="Folder that caches remote images; by default that of the run."),
    ] = None,
    cache_size: Annotated[
        str | None,
        typer.Option(help="Largest size of that folder, as 50GB; by default that of the run."),
    ] = None,
    requests: Annotated[
        int | None,
        typer.Option(help="Remote images requested at a time; by default as in the run."),
    ] = None,
    allow_truncated: Annotated[
        bool | None,
        typer.Option(help="Accept JPEGs whose end is missing; as in the run by default."),
    ] = None,
    device: Device = "auto",
) -> None:
    """The flags of `lookalike.commands.read_options.ReadOptions`."""


def with_read_flags(*but: str) -> Callable[[Command], Command]:
    """Give a command the flags of `ReadOptions`, but some, in place of its `**read`."""

    def decorate(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True).parameters.values()
        shared = inspect.signature(_read_flags, eval_str=True).parameters.values()
        parameters = [p for p in own if p.kind is not p.VAR_KEYWORD]
        parameters += [p for p in shared if p.name not in but]
        seen: Any = command  # by typer
        seen.__signature__ = inspect.Signature(parameters)
        seen.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return decorate


def split_request(request: list[str] | None) -> tuple[list[str], list[str]]:
    """The configuration file, if there is one, and the `key=value`s."""
    files = [item for item in request or [] if "=" not in item]
    if len(files) > 1:
        raise ConfigError(f"more than one configuration file: {', '.join(files)}")
    return files, [item for item in request or [] if "=" in item]


def show_run(run: Run) -> None:
    """Print the directory of a run, the answer of a training: one line, whatever its workers."""
    from lookalike.distributed.launch import is_answering

    if is_answering():
        typer.echo(run.path)
