"""Arguments and output of `lookalike evaluate`."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from typing import Annotated, Any

import typer

from lookalike.cli.arguments import (
    AsJson,
    Format,
    MeasuredSplit,
    QueryImageRoot,
    QueryLabelColumn,
    QueryPathColumn,
    with_read_flags,
)
from lookalike.errors import ConfigError


@with_read_flags()
def evaluate(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Output directories or model folders; several are compared."),
    ] = None,
    data: Annotated[str | None, typer.Option(help="List of labelled images.")] = None,
    query: Annotated[
        str | None, typer.Option(help="In place of --data: list of query images.")
    ] = None,
    gallery: Annotated[
        str | None, typer.Option(help="With --query: list of gallery images.")
    ] = None,
    embeddings: Annotated[
        list[str] | None,
        typer.Option(help="In place of models: a .npy or .parquet file; again for another model."),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="With --embeddings: a file with one label a line.")
    ] = None,
    k: Annotated[str, typer.Option(help="The k of Recall@k.")] = "1,2,4,8",
    precision: Annotated[str, typer.Option(help="The k of precision@k.")] = "",
    full: Annotated[
        bool, typer.Option("--full", help="Rank everything: mAP and mINP too.")
    ] = False,
    verification: Annotated[
        bool,
        typer.Option("--verification", help="Same or different: ROC, TAR at FARs, thresholds."),
    ] = False,
    nmi: Annotated[
        bool, typer.Option("--nmi", help="Clusters against classes too; slow for many classes.")
    ] = False,
    per_class: Annotated[
        str | None, typer.Option(help="File for the figures of each class, .csv or .jsonl.")
    ] = None,
    per_query: Annotated[
        str | None, typer.Option(help="File for the figures of each query, .csv or .jsonl.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(help="Directory for evaluation.json, per_class.csv and per_query.csv."),
    ] = None,
    as_json: AsJson = False,
    definitions: Annotated[
        bool, typer.Option("--definitions", help="Print the definition of every figure.")
    ] = False,
    format: Format = "auto",
    split: MeasuredSplit = None,
    label_separator: Annotated[
        str | None,
        typer.Option(help="Text between the labels of an image; by default that of the run."),
    ] = None,
    hierarchy: Annotated[
        str | None,
        typer.Option(
            help="Coarser classes: columns (genus,family), or a file of `label genus family`."
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
    query_path_column: QueryPathColumn = None,
    query_label_column: QueryLabelColumn = None,
    query_image_root: QueryImageRoot = None,
    **read: Any,
) -> None:
    """Measure retrieval with confidence intervals; compare models."""
    from lookalike.distributed.launch import in_worker, launch

    recall, precise = _numbers("--k", k), _numbers("--precision", precision)
    if definitions and not models and not embeddings:
        from rich.console import Console

        from lookalike.evaluation.score_table import show_definitions

        show_definitions(Console())
        return
    if workers > 1 and not in_worker():
        _refuse_streams(data, query, gallery, labels, *(embeddings or []))
        with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
            launch(workers, sys.argv[1:], folder, "Give the command again")
        return
    from lookalike import log
    from lookalike.commands.evaluate import compare

    log.start()
    found = compare(
        models or [],
        data,
        query=query,
        gallery=gallery,
        embeddings=embeddings or [],
        labels=labels,
        format=format,
        split=split,
        label_separator=label_separator,
        hierarchy=hierarchy,
        recall=recall,
        precision=precise,
        full=full,
        verification=verification,
        nmi=nmi,
        per_class=per_class,
        per_query=per_query,
        output=output,
        query_path_column=query_path_column,
        query_label_column=query_label_column,
        query_image_root=query_image_root,
        **read,
    )
    if os.environ.get("RANK", "0") != "0":
        return
    if as_json:
        typer.echo(json.dumps(found.to_dict()))
        return
    from rich.console import Console

    from lookalike.evaluation.score_table import show, show_definitions

    console = Console()
    show(found, console)
    if definitions:
        console.print()
        show_definitions(console)


def _refuse_streams(*given: str | None) -> None:
    """Refuse lists that only one worker could read."""
    from lookalike.data.readers.streams import is_stream

    for place in filter(None, given):
        if is_stream(place):
            raise ConfigError(
                f"{place}: can be read only once, and not by the workers; write the list to a "
                "file, or leave --workers out"
            )


def _numbers(flag: str, text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(part.isascii() and part.isdigit() and 0 < len(part) < 19 for part in parts):
        raise ConfigError(f"{flag} {text}: numbers from 1 on with commas between, as in 1,5,10")
    return [int(part) for part in parts]
