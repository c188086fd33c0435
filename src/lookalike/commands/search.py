"""`lookalike search`: the images of a gallery that are most like a query."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TypedDict, Unpack

from lookalike import log, storage
from lookalike.commands.keyword_groups import split_keywords
from lookalike.commands.models import calibration_of, load
from lookalike.commands.read_options import (
    ReadKeywords,
    ReadOptions,
    SearchedKeywords,
    check_query_layout,
)
from lookalike.commands.run_lists import joiner_of
from lookalike.commands.run_lists import lists_of as known_lists_of
from lookalike.data.inputs import place_of, places_of
from lookalike.data.loading.bad_images import BadImages, none_readable, warn_left_out
from lookalike.data.loading.image_source import Source
from lookalike.data.read_files import check_not_read
from lookalike.data.record import Record
from lookalike.errors import ConfigError, DataError, RunError, check_integer
from lookalike.exporting.exported import ExportedModel
from lookalike.index import sync
from lookalike.index.decision import Answer, decide, prior_of
from lookalike.index.index import Index
from lookalike.index.new_images import id_of
from lookalike.index.recall_check import RecallCheck, check_recall
from lookalike.index.search_page import render
from lookalike.index.segment_search import checked_k
from lookalike.index.store_address import check_client, check_index_place, check_kind
from lookalike.log import logger
from lookalike.metrics.calibration import Calibration
from lookalike.model.embedder import Embedder
from lookalike.model.inference import embed_records
from lookalike.storage import Place
from lookalike.storage.cache_folder import cache_entry
from lookalike.storage.local_files import make_folder
from lookalike.storage.output_checks import check_distinct, check_output_file

Places = Place | Iterable[Place]


class ChangeKeywords(TypedDict, total=False):
    """Changes of an index before it is searched, as keywords of `search`.

    Attributes:
        add: more images for the index.
        remove: ids, folders, or patterns with `*` to remove from the index; one or several.
        remove_all: let folders and patterns of `remove` remove all images.
    """

    add: Places
    remove: Places
    remove_all: bool


class SearchKeywords(ReadKeywords, SearchedKeywords, ChangeKeywords, total=False):
    """Those keywords of `search` that belong together."""


@dataclass(frozen=True)
class SearchOutcome:
    """The answers of a search.

    Attributes:
        answers: one for each readable query, in order.
        index: the one that was searched.
        threshold: the cosine from which two images are rather the same than different; None where
            none is enough, or without a calibration.
        prior: the share of same pairs that the probabilities assume; None without a calibration.
        check: recall and latency, where they were asked for.
    """

    answers: list[Answer]
    index: Index
    threshold: float | None
    prior: float | None = None
    check: RecallCheck | None = None


def search(
    model: Place,
    queries: Places = (),
    *,
    gallery: Places = (),
    index: Place | None = None,
    k: int = 10,
    kind: str = "auto",
    exact: bool = False,
    prior: float | None = None,
    check: int = 0,
    html: Place | None = None,
    lists_of: Place | None = None,
    **more: Unpack[SearchKeywords],
) -> SearchOutcome:
    """Find the images of a gallery that are most like each query.

    Ids of images on this machine are their absolute paths.

    Args:
        model: an output directory, or a model folder.
        queries: images, folders, lists, ...; see `lookalike.data.inputs`.
        gallery: the images to search. Without `index`, an index of exactly these images is kept in
            the user's cache: later calls embed only new and changed ones. With `index`, they are
            added to it, and its other images stay.
        index: the folder of an index, or the address of a collection of Qdrant or of a table of
            PostgreSQL (`Index.open`); made from `gallery` where there is none.
        k: neighbours of each query.
        kind: of search in a new index; see `Index.create`. An existing one must have it.
        exact: search all images, also where an approximate search would be faster.
        prior: the share of same pairs that probabilities and decisions assume, between 0 and 1; by
            default that of the calibration for a gallery of this size
            (`Calibration.search_prior`).
        check: images of the index with which its recall against an exact search, and its latency,
            are measured; 0 for none.
        html: a file for a page with the pictures.
        lists_of: a run whose training and validation lists are read by its settings
            (`data.format`, `data.image_root`, ...); by default `model`, where it is a run.
        more: `add`, `remove` and `remove_all`, as in `lookalike.commands.search.ChangeKeywords`;
            `query_path_column` and `query_image_root`, as in
            `lookalike.commands.read_options.SearchedKeywords`; `threads`, `cache`, `cache_size`,
            `requests`, `allow_truncated`, `path_column`, `label_column` (of the gallery),
            `image_root` and `device`, as in `lookalike.commands.read_options.ReadOptions`.

    Raises:
        LookalikeError: no model, no index, none of the queries can be read, or an index of
            another model.
    """
    model = place_of("model", model)
    asked_for, galleries = places_of("queries", queries), places_of("gallery", gallery)
    changes, asking, read = split_keywords(
        search, more, ChangeKeywords, SearchedKeywords, ReadKeywords
    )
    added, removed = (places_of(name, changes.get(name, ())) for name in ("add", "remove"))
    if not isinstance(remove_all := changes.get("remove_all", False), bool):
        raise ConfigError(f"remove_all={remove_all!r} must be True or False")
    if not galleries and index is None:
        raise ConfigError("nothing to search: give --gallery PLACE, or --index PLACE")
    if (added or removed) and index is None:
        raise ConfigError("--add and --remove change an index: name it with --index PLACE")
    try:
        k = checked_k(k)
    except DataError as error:
        raise ConfigError(str(error)) from None
    if html is not None and not asked_for:
        raise ConfigError("a page shows queries and what they found: name a query")
    if html is not None:
        check_output_file(html)
        check_distinct([html], (*asked_for, *galleries, *added))
    if prior is not None and not asked_for:
        raise ConfigError("prior (--prior) is for the answers to queries: name a query")
    check_integer("check", check, 0)
    check_kind(kind, "" if index is None else os.fspath(index))
    options = ReadOptions(**read)
    # The labels of queries are not used: their lists need not have the column of the gallery's.
    query_layout = replace(options.query_layout(asking), label_column=None)
    check_query_layout(asking, asked_for, "queries")
    if index is not None:
        check_index_place(place_of("index", index))
        check_client(os.fspath(index))
    log.start()
    layout = options.layout
    listing = model if lists_of is None else lists_of
    known, known_queries = (
        known_lists_of(listing, required=lists_of is not None, layout=one)
        for one in (layout, query_layout)
    )
    joiner = joiner_of(listing)
    queried = sync.records_at(asked_for, known_queries, query_layout) if asked_for else []
    needed = bool(asked_for or galleries or added)
    embedder = load(model, device=options.device) if needed else None
    source = options.source([model] if needed else [])
    calibration = None if embedder is None else calibration_of(model, embedder)
    prior_of(calibration, 1, prior)  # a wrong one is known before any work
    lists = [  # read before an index is made
        (sync.GalleryList.of(places, known, layout, joiner), exactly)
        for places, exactly in ((galleries, index is None), (added, False))
        if places
    ]
    if html is not None:
        check_not_read([html], chain(queried, *(listed.records for listed, _ in lists)))
    found = _index(embedder, index, galleries, kind)
    if removed:
        sync.remove(found, removed, remove_all=remove_all)
    named: dict[str, Record] = {}
    for listed, exactly in lists:
        named |= sync.synchronize(found, listed, remove_missing=exactly, source=source)
    checked = check_recall(found, check, k) if check else None
    if not asked_for:
        return SearchOutcome([], found, None, check=checked)
    assert embedder is not None
    assumed = prior_of(calibration, len(found), prior)
    if not len(found):
        logger.warning("%s: holds no images; add some with --add or --gallery", found.place)
    answers, asked = _answers(embedder, found, queried, calibration, assumed, k, exact, source)
    threshold = None
    if calibration is not None and assumed is not None:
        threshold = calibration.cosine_of(assumed)
    if html is not None:
        ids = {one.id for answer in answers for one in answer.neighbours}
        page = render(
            answers,
            found.records(ids) | named | asked,
            gallery=len(found),
            threshold=threshold,
            prior=assumed,
            source=source,
        )
        storage.write_text(html, page)
        logger.info("written: %s", storage.public(os.fspath(html)))
    return SearchOutcome(answers, found, threshold, assumed, checked)


def cached_index(
    embedder: Embedder | ExportedModel, gallery: Sequence[str], kind: str = "auto"
) -> Path:
    """The folder of the index that a search in these places keeps in the user's cache."""
    places = "\n".join([embedder.fingerprint(), str(kind), *map(storage.absolute, gallery)])
    return cache_entry("galleries", gallery[0], places)


def _index(
    embedder: Embedder | ExportedModel | None,
    path: Place | None,
    gallery: list[str],
    kind: str,
) -> Index:
    """The requested index, made where there is none and images for it are named."""
    if path is None:
        assert embedder is not None
        path = cached_index(embedder, gallery, kind)
        try:
            make_folder(path.parent)
        except RunError as error:
            raise RunError(
                f"{error}; name an index with --index PLACE, or set LOOKALIKE_CACHE to another "
                "folder"
            ) from None
    if gallery:
        return Index.open_or_create(path, embedder=embedder, kind=kind)
    return Index.open(path, embedder, kind=kind)


def _answers(
    embedder: Embedder | ExportedModel,
    index: Index,
    queries: Sequence[Record],
    calibration: Calibration | None,
    prior: float | None,
    k: int,
    exact: bool,
    source: Source,
) -> tuple[list[Answer], dict[str, Record]]:
    """The answer to each query, and the queries by their ids."""
    bad = BadImages()
    embedded = embed_records(
        embedder,
        queries,
        bad=bad,
        source=source,
        what="queries",
        quiet=len(queries) == 1,
    )
    if not len(embedded.rows):
        raise none_readable(queries, bad.reasons)
    warn_left_out(queries, bad.reasons)
    found = index.search(embedded.vectors.numpy(), k + 1, exact=exact)
    asked = [queries[row] for row in embedded.rows.tolist()]
    answers = [
        decide(id_of(query), ids, cosines, labels, calibration, prior, shown=k)
        for query, ids, cosines, labels in zip(
            asked, found.ids, found.cosines, found.labels, strict=True
        )
    ]
    return answers, {id_of(query): query for query in asked}
