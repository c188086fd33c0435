"""`lookalike search`: images of a gallery that look like a query."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lookalike import fetched, log, storage
from lookalike.data.bad_images import BadImages, describe_bad
from lookalike.data.places import read_places
from lookalike.data.record import Record
from lookalike.data.source import Source
from lookalike.errors import ConfigError, DataError, RunError
from lookalike.exporting.exported import ExportedModel
from lookalike.gallery import manifest
from lookalike.gallery.images import id_of
from lookalike.gallery.index import Index
from lookalike.gallery.page import render
from lookalike.gallery.verdict import Answer, judge, limit_of
from lookalike.inference import embed_records
from lookalike.log import logger
from lookalike.model.embedder import Embedder
from lookalike.provenance import source_of
from lookalike.retrieval.calibration import Calibration
from lookalike.vectors import files
from lookalike.verbs.embed import calibration_of, load

Places = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class Searched:
    """The outcome of a search.

    Attributes:
        answers: one for each query that can be read, in order.
        index: what was searched.
        threshold: the cosine from which two images are the same; None without a calibration.
    """

    answers: list[Answer]
    index: Index
    threshold: float | None


def search(
    model: str | Path,
    queries: Places = (),
    *,
    gallery: Places = (),
    index: str | Path | None = None,
    add: Places = (),
    remove: Sequence[str] = (),
    k: int = 10,
    kind: str = "auto",
    exact: bool = False,
    html: str | Path | None = None,
    threads: int = 4,
    cache: str | Path | None = None,
    cache_size: str | None = None,
    requests: int | None = None,
    device: str = "auto",
) -> Searched:
    """Find the images of a gallery that are most like each query.

    Ids of images on this machine are their absolute paths.

    Args:
        model: an output directory, or a model folder.
        queries: images, folders, lists, ...; see `lookalike.data.places`.
        gallery: what is searched. Without `index`, an index of exactly these images is kept in the
            user's cache: later calls embed only what is new or has changed. With `index`, they are
            added to it, and what it holds besides stays.
        index: the folder of an index; made from `gallery` where there is none.
        add: more images for the index.
        remove: ids that are to leave the index, folders, or patterns with `*`.
        k: neighbours of each query.
        kind: how a new index is searched; see `Index.create`.
        exact: look at all images, also where faiss would be quicker.
        html: a file for a page with the pictures.
        threads: threads that read and decode.
        cache: a folder of this machine that keeps images from elsewhere; that of the run by
            default, where this machine has it.
        cache_size: the most that lies there, as "50GB"; that of the run by default.
        requests: for images from elsewhere at a time, for each worker; as in the run by default.
        device: auto, cpu or cuda.

    Raises:
        LookalikeError: no model, no index, none of the queries can be read, or an index of
            another model.
    """
    if not gallery and index is None:
        raise ConfigError("nothing to search: give --gallery PLACE, or --index DIR")
    if (add or remove) and index is None:
        raise ConfigError("--add and --remove change an index: name it with --index DIR")
    if html is not None and not queries:
        raise ConfigError("a page shows queries and what they found: name a query")
    log.start()
    asking = _records(queries) if queries else []
    needed = bool(queries or gallery or add)
    embedder = load(model, device=device) if needed else None
    source = source_of(
        [model] if needed else [], cache=cache, cache_size=cache_size, requests=requests
    )
    found = _index(embedder, index, _listed(gallery), kind)
    if remove:
        _remove(found, remove)
    if gallery:
        _bring(found, _listed(gallery), mirror=index is None, threads=threads, source=source)
    if add:
        _bring(found, _listed(add), mirror=False, threads=threads, source=source)
    if not queries:
        return Searched([], found, None)
    assert embedder is not None
    calibration = calibration_of(model, embedder)
    answers, asked = _answers(embedder, found, asking, calibration, k, exact, threads, source)
    threshold = None if calibration is None else calibration.threshold
    if html is not None:
        ids = {one.id for answer in answers for one in answer.neighbours}
        page = render(
            answers,
            found.records(ids) | asked,
            gallery=len(found),
            threshold=threshold,
            threads=threads,
            source=source,
        )
        storage.write_bytes(str(html), page.encode())
        logger.info("written: %s", storage.public(str(html)))
    return Searched(answers, found, threshold)


def _index(
    embedder: Embedder | ExportedModel | None,
    path: str | Path | None,
    gallery: list[str],
    kind: str,
) -> Index:
    """The index that is asked for, made where there is none and images for it are named."""
    if path is None:
        assert embedder is not None
        places = "\n".join([embedder.fingerprint(), kind, *map(_absolute, gallery)])
        path = fetched.cache_folder("galleries", gallery[0], places)
    folder = Path(storage.local_path(str(path)))
    if not storage.is_remote(str(path)) and not (folder / manifest.FILE).exists() and gallery:
        return Index.create(folder, embedder=embedder, kind=kind)
    return Index.open(path, embedder)


def _bring(
    index: Index, places: Sequence[str], *, mirror: bool, threads: int, source: Source
) -> None:
    """Add the images that the index does not have as they are now.

    Args:
        index: what they go into.
        places: of the images; also files of vectors that `embed` wrote.
        mirror: drop from the index what is not among them.
        threads: that read and decode.
        source: of the images' bytes.
    """
    tables = [place for place in places if _is_ours(place, index)]
    others = [place for place in places if place not in tables]
    known = index.versions()
    listed = {id_of(record): record for record in (_records(others) if others else ())}
    versions = {id: _version(record.uri) for id, record in listed.items()}
    seen = set(listed)
    added = 0
    for table in tables:
        version = _version(_absolute(table))
        for records, vectors in files.read(table):
            records = list(map(_placed, records))
            ids = [id_of(record) for record in records]
            new = [row for row, id in enumerate(ids) if known.get(id) != version]
            if new:
                some = [records[row] for row in new]
                added += index.add(some, vectors=vectors[new], versions=[version] * len(new))
            seen.update(ids)
    fresh = [id for id, version in versions.items() if known.get(id) != version]
    gone = [id for id in known if id not in seen] if mirror else []
    if gone:
        index.remove(gone)
        logger.info("%s: %d images that are gone removed", index.path, len(gone))
    if fresh:
        added += index.add(
            [listed[id] for id in fresh],
            versions=[versions[id] for id in fresh],
            threads=threads,
            source=source,
        )
    if added and not known:
        index.compact()
    if added:
        logger.info("%s: %d images added", index.path, added)
    if len(index) == 0:
        raise DataError(f"none of the {len(seen):,} images of the gallery can be read")


def _is_ours(place: str, index: Index) -> bool:
    """Whether a place is a file of vectors that `embed` wrote.

    Raises:
        RunError: they are of another model.
    """
    model = files.model_of(place)
    if model not in (None, index.model):
        raise RunError(
            f"{storage.public(place)}: holds vectors of another model ({str(model)[:8]}; the index "
            f"is of {index.model[:8]}), which cannot be compared; embed the images anew"
        )
    return model is not None


def _remove(index: Index, wanted: Sequence[str]) -> None:
    """Remove ids, folders and patterns, and say which of them met nothing."""
    ids = index.ids()
    there = set(ids)
    leaving: dict[str, None] = {}
    for item in map(str, wanted):
        names = (item, _absolute(item))
        found = [name for name in names if name in there]
        if not found:
            found = [
                id
                for id in ids
                if any(id.startswith(name.rstrip("/") + "/") for name in names)
                or ("*" in item and any(fnmatch.fnmatchcase(id, name) for name in names))
            ]
        if not found:
            logger.warning("not in the index: %s", storage.public(item))
        leaving |= dict.fromkeys(found)
    logger.info("%s: %d images removed", index.path, index.remove(leaving))


def _answers(
    embedder: Embedder | ExportedModel,
    index: Index,
    queries: Sequence[Record],
    calibration: Calibration | None,
    k: int,
    exact: bool,
    threads: int,
    source: Source,
) -> tuple[list[Answer], dict[str, Record]]:
    """What each query found, and the queries by their ids."""
    bad = BadImages()
    embedded = embed_records(
        embedder,
        queries,
        threads=threads,
        bad=bad,
        source=source,
        what="queries",
        quiet=len(queries) == 1,
    )
    for row, reason in bad.reasons.items():
        logger.warning("left out: %s", describe_bad(queries[row], reason))
    if not len(embedded.rows):
        raise DataError("no query can be read")
    found = index.search(embedded.vectors.numpy(), k, exact=exact)
    limit = limit_of(calibration, len(index))
    asked = [queries[row] for row in embedded.rows.tolist()]
    answers = [
        judge(id_of(query), ids, cosines, labels, calibration, limit)
        for query, ids, cosines, labels in zip(
            asked, found.ids, found.cosines, found.labels, strict=True
        )
    ]
    return answers, {id_of(query): query for query in asked}


def _records(places: Places) -> list[Record]:
    """The images, with absolute paths: an index is used from anywhere."""
    return list(map(_placed, read_places(_listed(places))))


def _placed(record: Record) -> Record:
    uri = _absolute(record.uri)
    return record if uri == record.uri else replace(record, uri=uri)


def _absolute(place: str) -> str:
    return place if storage.is_remote(place) else os.path.abspath(storage.local_path(place))


def _listed(places: Places) -> list[str]:
    return [str(places)] if isinstance(places, (str, Path)) else [str(place) for place in places]


def _version(uri: str) -> int:
    """A number that changes when the file does; 0 for those elsewhere, which are taken as fixed."""
    if storage.is_remote(uri):
        return 0
    try:
        status = os.stat(uri)
    except OSError:
        return 0  # reading it will say why
    return (status.st_mtime_ns * 1_000_003 + status.st_size) & (2**63 - 1)
