"""`lookalike embed`: parse and show."""

from __future__ import annotations

from typing import Annotated

import typer

from lookalike.cli.arguments import (
    AllowTruncated,
    Cache,
    CacheSize,
    Device,
    Model,
    Requests,
    Threads,
)


def embed(
    model: Model,
    images: Annotated[
        list[str], typer.Argument(help="Folders, lists, tables, 'patterns/**/*.jpg' or images.")
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", help="NAME.parquet or NAME.npy, or a URI.")
    ],
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
    restart: Annotated[
        bool, typer.Option("--restart", help="Drop what an earlier attempt has done.")
    ] = False,
    threads: Threads = 4,
    cache: Cache = None,
    cache_size: CacheSize = None,
    requests: Requests = None,
    allow_truncated: AllowTruncated = None,
    device: Device = "auto",
) -> None:
    """Turn images into vectors. Killed and started again, it goes on where it stopped."""
    from lookalike.commands.embed import embed as verb

    verb(
        model,
        images,
        output,
        workers=workers,
        restart=restart,
        threads=threads,
        cache=cache,
        cache_size=cache_size,
        requests=requests,
        allow_truncated=allow_truncated,
        device=device,
    )
