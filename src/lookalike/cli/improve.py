"""`lookalike improve`: parse and show."""

from __future__ import annotations

import json
import logging
from typing import Annotated

import typer

from lookalike.cli.arguments import Cache, CacheSize, Device, Model, Requests, Threads


def improve(
    model: Model,
    data: Annotated[str, typer.Option(help="List of labelled images to measure on.")],
    variant: Annotated[
        list[str] | None,
        typer.Option(
            help="Steps joined by +, of flip, whiten[=N], dims=N, int8, binary, binary_gallery, "
            "augment, expand and rerank; may be given several times."
        ),
    ] = None,
    fit: Annotated[
        str | None, typer.Option(help="Images to fit whitening on; default the training list.")
    ] = None,
    keep: Annotated[
        str | None, typer.Option(help="Save the model with these steps: flip, whiten, dims.")
    ] = None,
    output: Annotated[str | None, typer.Option(help="Folder of the model that is kept.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    format: Annotated[
        str,
        typer.Option(help="auto, image_list, itag, csv, parquet, folder or webdataset."),
    ] = "auto",
    split: Annotated[
        str | None, typer.Option(help="Where the data have splits: the one to measure on.")
    ] = None,
    threads: Threads = 4,
    cache: Cache = None,
    cache_size: CacheSize = None,
    requests: Requests = None,
    device: Device = "auto",
) -> None:
    """Measure what better use of a trained model gains, without training."""
    from rich.console import Console
    from rich.table import Table

    from lookalike import log
    from lookalike.verbs.improve import improve as verb

    log.start(logging.WARNING if as_json else logging.INFO)
    found = verb(
        model, data, variants=variant, fit=fit, keep=keep, output=output, format=format,
        split=split, threads=threads, cache=cache, cache_size=cache_size, requests=requests,
        device=device,
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps({"variants": [one.to_dict() for one in found]}))
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("variant")
    for name in ("Recall@1", "gain", "MAP@R", "gain", "bytes"):
        table.add_column(name, justify="right")
    plain = found[0].scores
    for one in found:
        cells = []
        for value, base in (
            (one.scores.recall[1], plain.recall[1]),
            (one.scores.map_at_r, plain.map_at_r),
        ):
            gain = "" if one is found[0] else f"{100 * (value - base):+.1f}"
            cells += [f"{100 * value:.1f} %", gain]
        table.add_row(one.variant, *cells, f"{one.bytes:,}")
    console = Console()
    (console if console.is_terminal else Console(width=110)).print(table, highlight=False)
    typer.echo(f"over {plain.num_queries:,} queries in a gallery of {plain.num_gallery:,}")
