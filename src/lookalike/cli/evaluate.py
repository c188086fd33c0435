"""`lookalike evaluate`: parse and show."""

from __future__ import annotations

import json
import logging
from typing import Annotated

import typer

from lookalike.cli.arguments import Device, Model, Threads


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
