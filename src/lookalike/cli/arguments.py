"""What several commands take, and how it is taken apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lookalike.errors import ConfigError

if TYPE_CHECKING:
    from lookalike.run import Run

Threads = Annotated[int, typer.Option(help="Threads that read and decode images.")]
Format = Annotated[
    str, typer.Option(help="auto, image_list, itag, csv, parquet, folder or webdataset.")
]
MeasuredSplit = Annotated[
    str | None, typer.Option(help="Where the data have splits: the one to measure on.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Cache = Annotated[
    str | None,
    typer.Option(
        help="Folder that keeps images from elsewhere; that of the run by default, where it is."
    ),
]
CacheSize = Annotated[
    str | None, typer.Option(help="The most in that folder, as 50GB; that of the run by default.")
]
Requests = Annotated[
    int | None,
    typer.Option(help="Images from elsewhere to ask for at a time; as in the run by default."),
]
AllowTruncated = Annotated[
    bool | None,
    typer.Option(help="Accept JPEGs whose end is missing; as in the run by default."),
]
Model = Annotated[
    str, typer.Argument(help="An output directory, a model folder, or an .onnx file.")
]


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
