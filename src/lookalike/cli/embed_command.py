"""Arguments and output of `lookalike embed`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lookalike.cli.arguments import Model, with_read_flags


@with_read_flags()
def embed(
    model: Model,
    images: Annotated[
        list[str], typer.Argument(help="Folders, lists, tables, 'patterns/**/*.jpg' or images.")
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            help="NAME.parquet or NAME.npy, here or a URI; or an index: qdrant://HOST:6334/NAME, "
            "postgresql://USER@HOST/DATABASE/TABLE.",
        ),
    ],
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
    restart: Annotated[
        bool, typer.Option("--restart", help="Drop what an earlier attempt has done.")
    ] = False,
    **read: Any,
) -> None:
    """Embed images into a file, or an index. Started again after a kill, it resumes."""
    from lookalike.commands.embed import embed as command

    command(
        model,
        images,
        output,
        workers=workers,
        restart=restart,
        **read,
    )
