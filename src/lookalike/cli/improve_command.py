"""Arguments and output of `lookalike improve`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike.cli.arguments import AsJson, Format, MeasuredSplit, Model, with_read_flags

if TYPE_CHECKING:
    from rich.console import Console

    from lookalike.commands.improve import Improvement


@with_read_flags()
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
    as_json: AsJson = False,
    format: Format = "auto",
    split: MeasuredSplit = None,
    **read: Any,
) -> None:
    """Measure the gain of postprocessing a trained model's vectors."""
    from rich.console import Console

    from lookalike import log
    from lookalike.commands.improve import improve as command

    log.start()
    found = command(
        model, data, variants=variant, fit=fit, keep=keep, output=output, format=format,
        split=split, **read,
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps({"variants": [one.to_dict() for one in found]}))
        return
    show(found, Console())


def show(found: Sequence[Improvement], console: Console) -> None:
    """Print the scores of each variant, its gain, and the gain's significance."""
    from lookalike.evaluation.score_table import columns, gain, put
    from lookalike.log import counted

    table = columns("variant", *("Recall@1", "gain", "95 %", "MAP@R", "gain", "95 %"), "bytes")
    for one in found:
        cells = []
        for name, value in (("recall_at_1", one.scores.recall[1]), one.scores.primary):
            cells += [f"{100 * value:.1f} %", "", ""]
            if name in one.gains:
                cells[-2:] = gain(one.gains[name])
                cells[-1] += " *" if one.gains[name].real else "  "
        table.add_row(one.variant, *cells, f"{one.bytes:,}")
    plain = found[0].scores
    put(table, console)
    typer.echo("* the 95 % interval by class and the sign-flip test exclude 0 (p <= 0.05)")
    queries = counted(plain.num_queries, "query", "queries")
    typer.echo(f"over {queries} in a gallery of {plain.num_gallery:,}")
