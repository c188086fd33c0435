"""`lookalike search`: images of a gallery that look like a query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lookalike import fetched, log, storage
from lookalike.data.bad_images import BadImages, describe_bad
from lookalike.data.record import Record
from lookalike.data.source import Source
from lookalike.errors import ConfigError, DataError
from lookalike.exporting.exported import ExportedModel
from lookalike.gallery import contents, manifest
from lookalike.gallery.images import id_of
from lookalike.gallery.index import Index
from lookalike.gallery.page import render
from lookalike.gallery.verdict import Answer, judge, limit_of
from lookalike.inference import embed_records
from lookalike.log import logger
from lookalike.model.embedder import Embedder
from lookalike.provenance import source_of
from lookalike.retrieval.calibration import Calibration
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
    if k < 1:
        raise ConfigError(f"k={k} must be at least 1")
    if html is not None and not queries:
        raise ConfigError("a page shows queries and what they found: name a query")
    log.start()
    asking = contents.records_at(_listed(queries)) if queries else []
    needed = bool(queries or gallery or add)
    embedder = load(model, device=device) if needed else None
    source = source_of(
        [model] if needed else [], cache=cache, cache_size=cache_size, requests=requests
    )
    found = _index(embedder, index, _listed(gallery), kind)
    if remove:
        contents.remove(found, remove)
    named: dict[str, Record] = {}
    if gallery:
        named |= contents.bring(
            found, _listed(gallery), mirror=index is None, threads=threads, source=source
        )
    if add:
        named |= contents.bring(found, _listed(add), mirror=False, threads=threads, source=source)
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
            found.records(ids) | named | asked,
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
        places = "\n".join([embedder.fingerprint(), kind, *map(contents.absolute, gallery)])
        path = fetched.cache_folder("galleries", gallery[0], places)
    folder = Path(storage.local_path(str(path)))
    if not storage.is_remote(str(path)) and not (folder / manifest.FILE).exists() and gallery:
        return Index.create(folder, embedder=embedder, kind=kind)
    return Index.open(path, embedder)


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
    found = index.search(embedded.vectors.numpy(), k + 1, exact=exact)
    limit = limit_of(calibration, len(index))
    asked = [queries[row] for row in embedded.rows.tolist()]
    answers = [
        judge(id_of(query), ids, cosines, labels, calibration, limit, shown=k)
        for query, ids, cosines, labels in zip(
            asked, found.ids, found.cosines, found.labels, strict=True
        )
    ]
    return answers, {id_of(query): query for query in asked}


def _listed(places: Places) -> list[str]:
    return [str(places)] if isinstance(places, (str, Path)) else [str(place) for place in places]
