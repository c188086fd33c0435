"""`lookalike embed`: parse and show."""

from __future__ import annotations

from typing import Annotated

import typer

from lookalike.cli.arguments import Device, Model, Threads


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
