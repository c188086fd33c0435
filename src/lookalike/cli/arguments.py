"""Arguments that several commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from lookalike.config.config import Config
    from lookalike.run import Run

Command = Callable[..., None]

Format = Annotated[
    str,
    typer.Option(
        help="auto, image_list, itag, csv, json, parquet, folder, webdataset or recordio."
    ),
]
MeasuredSplit = Annotated[
    str | None, typer.Option(help="Where the data have splits: the one to measure on.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
PathColumn = Annotated[
    str | None,
    typer.Option(help="Column of images in a table; by default found by name and content."),
]
LabelColumn = Annotated[
    str | None, typer.Option(help="Column of labels in a table; by default found by name.")
]
ImageRoot = Annotated[
    str | None,
    typer.Option(help="Folder or URI where relative paths in lists start; by default the list's."),
]
QueryPathColumn = Annotated[
    str | None,
    typer.Option(help="--path-column of the queries, if another; '' finds it by content."),
]
QueryLabelColumn = Annotated[
    str | None,
    typer.Option(help="--label-column of the queries, if another; '' finds it by name."),
]
QueryImageRoot = Annotated[
    str | None,
    typer.Option(help="--image-root of the queries, if another; '' is their list's folder."),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Request = Annotated[
    list[str] | None,
    typer.Argument(metavar="config.yaml|key=value", help="A file of settings, and settings."),
]
TrainList = Annotated[
    list[str] | None,
    typer.Option(help="List of labelled images to learn; several, a pattern, or - for stdin."),
]
ValList = Annotated[list[str] | None, typer.Option(help="List to measure retrieval on.")]
BackboneName = Annotated[
    str | None, typer.Option(help="Network, as resnet18 or a timm model; default resnet50.")
]
LossName = Annotated[
    str | None, typer.Option(help="As arcface, cosface or supcon; chosen by the recipe.")
]
Recipe = Annotated[
    str | None, typer.Option(help="Choice of settings left open: auto, component, or a file.")
]
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
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    image_root: ImageRoot = None,
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


def load_config(request: list[str] | None, flags: Mapping[str, Any]) -> Config:
    """The request of a file, `key=value`s, and flags by dotted key; None and [] are not given."""
    from lookalike.config.config import Config

    file = file_of(request)
    overrides = [item for item in request or [] if "=" in item]
    given = {key: value for key, value in flags.items() if value not in (None, [])}
    return Config.load(file, overrides, given)


def file_of(request: list[str] | None) -> str | None:
    """The configuration file, if there is one."""
    files = [item for item in request or [] if "=" not in item]
    if len(files) > 1:
        raise ConfigError(f"more than one configuration file: {', '.join(files)}")
    return files[0] if files else None


def table_console(width: int) -> Console:
    """Console of tables: as wide as the terminal, elsewhere of this width."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=width)


def show_run(run: Run) -> None:
    """Print the directory of a run, the answer of a training: one line, whatever its workers."""
    from lookalike.distributed.launch import is_answering

    if is_answering():
        typer.echo(run.path)
