"""Arguments and output of `lookalike search`."""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike import storage
from lookalike.cli.arguments import Model, QueryImageRoot, QueryPathColumn, with_read_flags

if TYPE_CHECKING:
    from lookalike.index.decision import Answer, Neighbour
    from lookalike.index.recall_check import RecallCheck


@with_read_flags()
def search(
    model: Model,
    queries: Annotated[
        list[str] | None, typer.Argument(help="Query images (folders, lists, ...).")
    ] = None,
    gallery: Annotated[
        list[str] | None, typer.Option(help="Images to search; may be given again.")
    ] = None,
    index: Annotated[
        str | None,
        typer.Option(
            help="Index that is kept: a folder, qdrant://HOST:6334/COLLECTION or "
            "postgresql://USER@HOST/DATABASE/TABLE."
        ),
    ] = None,
    add: Annotated[
        list[str] | None, typer.Option(help="Images to add to the index; may be given again.")
    ] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option(help="Path, folder or 'pattern*' to remove; may be given again."),
    ] = None,
    k: Annotated[int, typer.Option("--k", "-k", help="Neighbours of each query.")] = 10,
    kind: Annotated[
        str, typer.Option(help="Of a new index: auto, exact, int8, or hnsw in a database.")
    ] = "auto",
    exact: Annotated[
        bool, typer.Option("--exact", help="Scan all images, also where HNSW would be faster.")
    ] = False,
    prior: Annotated[
        float | None,
        typer.Option(
            help="Share of pairs that show the same thing, for the probabilities; by default from "
            "the calibration, for a gallery of this size."
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Let --remove remove all images without asking.")
    ] = False,
    stats: Annotated[bool, typer.Option("--stats", help="Print figures of the index.")] = False,
    check: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Measure recall against an exact search, and latency, with N images of the index.",
        ),
    ] = 0,
    html: Annotated[str | None, typer.Option(help="Write a page with the pictures.")] = None,
    open_page: Annotated[
        bool, typer.Option("--open", help="Show that page in the browser.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object for each query.")
    ] = False,
    lists_of: Annotated[
        str | None,
        typer.Option(
            help="Run whose own lists are read by its settings; by default the model, where it is "
            "a run."
        ),
    ] = None,
    query_path_column: QueryPathColumn = None,
    query_image_root: QueryImageRoot = None,
    **read: Any,
) -> None:
    """Find the images of a gallery that look like a query."""
    from lookalike import log
    from lookalike.commands.search import search as command
    from lookalike.index.sync import EverythingMatches

    log.start()
    if open_page and html is None:
        html = str(Path(tempfile.mkdtemp(prefix="lookalike-")) / "search.html")
    asked = partial(
        command,
        model,
        queries or (),
        gallery=gallery or (),
        index=index,
        add=add or (),
        remove=remove or (),
        k=k,
        kind=kind,
        exact=exact,
        prior=prior,
        check=check,
        html=html,
        lists_of=lists_of,
        query_path_column=query_path_column,
        query_image_root=query_image_root,
        **read,
    )
    try:
        found = asked(remove_all=yes)
    except EverythingMatches as error:  # before anything was changed
        asking = sys.stdin is not None and sys.stdin.isatty()  # None where it was closed
        if not asking or not typer.confirm(f"{error}. Remove them?", err=True):
            raise
        found = asked(remove_all=True)
    for answer in found.answers:
        typer.echo(json.dumps(asdict(answer)) if as_json else _shown(answer))
    if found.answers and not as_json:
        typer.echo(_assumed(found.prior))
    if found.check is not None:
        typer.echo(json.dumps({"check": asdict(found.check)}) if as_json else _checked(found.check))
    if stats or not (queries or gallery or add or remove or check):
        _say(found.index.stats(), as_json)
    if open_page and html is not None:
        import webbrowser

        webbrowser.open(storage.path_of(html).absolute().as_uri())


def _shown(answer: Answer) -> str:
    lines = [_near(answer.query)]
    if answer.known is False:
        lines[0] += ": probably nothing in the gallery shows the same"
    lines += [_line(rank, one) for rank, one in enumerate(answer.neighbours, 1)]
    return "\n".join(lines)


def _line(rank: int, one: Neighbour) -> str:
    decision = f"  {one.decision:15}" if one.decision else ""
    label = f"  ({one.label})" if one.label else ""
    itself = "  the query itself" if one.itself else ""
    return f"{rank:5}  {one.cosine:6.3f}{decision}  {_near(one.id)}{label}{itself}"


def _assumed(prior: float | None) -> str:
    """Assumptions of the probabilities."""
    if prior is None:
        return "no calibration beside the model: cosines only, without same or different"
    if prior < 1e-12:
        share = f"1 in {1 / prior:.0e}"
    elif prior < 1e-4:
        share = f"1 in {1 / prior:,.0f}"
    else:
        digits = 2 if prior <= 0.99 else 2 - math.floor(math.log10(1 - prior))  # 99.9 is not 100
        share = f"{100 * prior:.{digits}g} %"
    return (
        f"same or different, and how probable that is, where {share} of such pairs are the same; "
        "--prior changes it"
    )


def _checked(check: RecallCheck) -> str:
    return (
        f"recall of the {check.k} nearest: {100 * check.recall:.2f} % of {check.queries} queries "
        f"(images of the index, each without itself), {100 * check.worst:.0f} % at worst, against "
        "an exact search\n"
        f"latency of one search: p50 {check.p50_ms:.2f} ms, p99 {check.p99_ms:.2f} ms\n"
        f"largest error of a cosine: {check.cosine_error:.0e}"
    )


def _near(path: str) -> str:
    """A path relative to the working directory, if below it."""
    if storage.is_remote(path):
        return storage.public(path)
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def _say(values: dict[str, object], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(values))
        return
    for name, value in values.items():
        if isinstance(value, dict):
            value = ", ".join(f"{count:,} by {how}" for how, count in value.items())
        text = f"{value:,}" if isinstance(value, int) else str(value)
        typer.echo(f"{name.replace('_', ' '):14}{text}")
