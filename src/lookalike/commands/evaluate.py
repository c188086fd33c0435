"""`lookalike evaluate`: how well models retrieve on a labelled list, and which is better."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from lookalike import log, storage
from lookalike.commands.embed import calibration_of, load
from lookalike.commands.models import source_of, training_counts
from lookalike.data.inputs import place_of, places_of
from lookalike.data.loading.bad_images import BadImages
from lookalike.data.loading.image_source import Source
from lookalike.distributed.world import World
from lookalike.errors import ConfigError
from lookalike.evaluation.evaluator import Subject, Wanted, common, compared, measure, scored
from lookalike.evaluation.metric_tables import check_name, class_rows, query_rows, write_rows
from lookalike.evaluation.query_duplicates import copies_line
from lookalike.evaluation.result import Comparison, Evaluation
from lookalike.evaluation.testset import TestSet, from_files, from_list, from_query_and_gallery
from lookalike.log import logger
from lookalike.metrics.rank_metrics import RECALL
from lookalike.metrics.scores import Scores
from lookalike.metrics.topk import nearest_images
from lookalike.model.inference import embed_records
from lookalike.model.user_images import check_number
from lookalike.storage import Place

RESULT_JSON = "evaluation.json"
MOST_K = 10**9


def evaluate(
    model: Place,
    data: Place | None = None,
    *,
    query: Place | None = None,
    gallery: Place | None = None,
    format: str = "auto",
    split: str | None = None,
    recall: int | Iterable[int] = RECALL,
    precision: int | Iterable[int] = (),
    full: bool = False,
    threads: int = 4,
    cache: Place | None = None,
    cache_size: str | None = None,
    requests: int | None = None,
    allow_truncated: bool | None = None,
    device: str = "auto",
) -> Scores:
    """Retrieval scores of one model: each image asks for the others of its class.

    Where the data say who asks and who is searched (`is_query`, `is_gallery`), they do. `compare`
    gives confidence intervals and more, also for a single model.

    Args:
        model: an output directory, a model folder, or an exported `.onnx` file.
        data: a list, manifest, table, folder or shards of labelled images.
        query: in place of `data`, the images that ask.
        gallery: with `query`, the images that are searched.
        format: auto, or one of `lookalike.data.readers.READERS`.
        split: where the data have splits, the one to measure on; the only one that is not `train`
            by default.
        recall: the k of Recall@k, one or several.
        precision: the k of precision@k, one or several.
        full: measure mean average precision and mINP too, which need the whole ranking.
        threads: threads that read and decode.
        cache: a folder of this machine that keeps images from elsewhere; that of the run by
            default, where this machine has it.
        cache_size: the most that lies there, as "50GB"; that of the run by default.
        requests: for images from elsewhere at a time, for each worker; as in the run by default.
        allow_truncated: whether JPEGs without their end are accepted; as in the run by default.
        device: auto, cpu or cuda.

    Raises:
        LookalikeError: no model, a wrong list, or nothing that can be measured.
    """
    model = place_of("model", model)
    check_number("threads", threads, 0, ConfigError)
    data, query, gallery = _places(data=data, query=query, gallery=gallery)
    wanted = Wanted(_ks(recall), _ks(precision), full)
    _check([model], data, query, gallery, (), None, wanted)
    with World.from_env(device) as world:
        test = _test_set(data, query, gallery, format, split)
        source = source_of(
            [model], cache=cache, cache_size=cache_size, requests=requests,
            allow_truncated=allow_truncated,
        )  # fmt: skip
        subject = _embedded(model, test, threads, device, world, source)
        return scored(test, subject, wanted, world=world)


def compare(
    models: Place | Iterable[Place] = (),
    data: Place | None = None,
    *,
    query: Place | None = None,
    gallery: Place | None = None,
    embeddings: Place | Iterable[Place] = (),
    labels: Place | None = None,
    format: str = "auto",
    split: str | None = None,
    recall: int | Iterable[int] = RECALL,
    precision: int | Iterable[int] = (),
    full: bool = False,
    verification: bool = False,
    nmi: bool = False,
    per_class: Place | None = None,
    per_query: Place | None = None,
    output: Place | None = None,
    threads: int = 4,
    cache: Place | None = None,
    cache_size: str | None = None,
    requests: int | None = None,
    allow_truncated: bool | None = None,
    device: str = "auto",
    seed: int = 0,
) -> Comparison:
    """Measure models on the same images, with confidence intervals; one, or several compared.

    With several, the figures of each are followed by its differences to the first, measured on
    the same queries, and by a verdict whether they are real.

    Args:
        models: output directories, or model folders; one or several.
        data: a list, manifest, table, folder or shards of labelled images.
        query: in place of `data`, the images that ask.
        gallery: with `query`, the images that are searched.
        embeddings: in place of models and images, `.npy` or `.parquet` files of vectors of the
            same images in the same order, a file for each model.
        labels: with `embeddings`, a file with one label a line; not needed where Parquet has them.
        format: auto, or one of `lookalike.data.readers.READERS`.
        split: where the data have splits, the one to measure on.
        recall: the k of Recall@k, one or several.
        precision: the k of precision@k, one or several.
        full: measure mean average precision and mINP too, which need the whole ranking.
        verification: measure same-or-different too: ROC, TAR at several FARs, and what the
            threshold that came with the model does.
        nmi: cluster the images, and measure normalised mutual information with the classes too.
        per_class: a file, .csv or .jsonl, for the figures of each class.
        per_query: a file, .csv or .jsonl, for those of each query, and what it found first.
        output: a directory for evaluation.json, per_class.csv and per_query.csv.
        threads: threads that read and decode.
        cache: a folder of this machine that keeps images from elsewhere; that of the run by
            default, where this machine has it.
        cache_size: the most that lies there, as "50GB"; that of the run by default.
        requests: for images from elsewhere at a time, for each worker; as in the run by default.
        allow_truncated: whether JPEGs without their end are accepted; as in the run by default.
        device: auto, cpu or cuda.
        seed: of the resampling for the intervals.

    Raises:
        LookalikeError: no model, a wrong list, or nothing that can be measured.
    """
    models, embeddings = places_of("models", models), places_of("embeddings", embeddings)
    data, query, gallery, labels = _places(data=data, query=query, gallery=gallery, labels=labels)
    per_class, per_query, output = _places(per_class=per_class, per_query=per_query, output=output)
    check_name(per_class)
    check_name(per_query)
    if output is not None:
        per_class = per_class or storage.join(output, "per_class.csv")
        per_query = per_query or storage.join(output, "per_query.csv")
    wanted = Wanted(_ks(recall), _ks(precision), full, verification, nmi, seed)
    _check(models, data, query, gallery, embeddings, labels, wanted)
    with World.from_env(device) as world:
        if not world.is_main:
            log.start(logging.ERROR)
        if embeddings:
            test, files = from_files(embeddings, labels)
            rows = torch.arange(len(test.catalog))
            subjects = [Subject(name, vectors, rows, has_files=False) for name, vectors in files]
            counts: list[dict[str, int] | None] = [None] * len(files)
        else:
            test = _test_set(data, query, gallery, format, split)
            source = source_of(
                models, cache=cache, cache_size=cache_size, requests=requests,
                allow_truncated=allow_truncated,
            )  # fmt: skip
            subjects = common(
                [_embedded(model, test, threads, device, world, source) for model in models]
            )
            counts = [training_counts(model) for model in models]
        evaluations = [
            measure(test, subject, wanted, training_counts=known, world=world)
            for subject, known in zip(subjects, counts, strict=True)
        ]
        found = compared(evaluations, seed)
        if world.is_main:
            _tell(test, evaluations[0])
        if per_class is not None and world.is_main:
            write_rows(per_class, [row for one in evaluations for row in class_rows(one)])
        if per_query is not None:
            rows_of = [
                _query_rows(one, subject, world)
                for one, subject in zip(evaluations, subjects, strict=True)
            ]
            if world.is_main:
                write_rows(per_query, [row for rows in rows_of for row in rows])
        if output is not None and world.is_main:
            text = json.dumps(found.to_dict(), indent=1) + "\n"
            storage.write_bytes(storage.join(output, RESULT_JSON), text.encode())
        if world.is_main:
            written = [per_class, per_query, output and storage.join(output, RESULT_JSON)]
            for place in filter(None, written):
                logger.info("written: %s", storage.public(place))
    return found


def _places(**places: Place | None) -> list[str | None]:
    """One place or None for each name."""
    return [None if value is None else place_of(name, value) for name, value in places.items()]


def _ks(values: int | Iterable[int]) -> tuple[int, ...]:
    """One number or several."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        return (values,)  # type: ignore[return-value]  # which is looked at with the others
    return tuple(values)


def _check(
    models: Sequence[Place],
    data: str | None,
    query: str | None,
    gallery: str | None,
    embeddings: Sequence[Place],
    labels: str | None,
    wanted: Wanted,
) -> None:
    """Refuse a request that contradicts itself, before any work."""
    lists = [data, query, gallery]
    if embeddings:
        if models or any(lists):
            raise ConfigError(
                "--embeddings are measured as they are: leave out the models, --data, --query and "
                "--gallery"
            )
    elif not models:
        raise ConfigError("nothing to measure: give a run, or --embeddings with --labels")
    elif labels is not None:
        raise ConfigError("--labels belongs to --embeddings; a run's images have theirs in --data")
    elif data is not None and (query or gallery):
        raise ConfigError("--data excludes --query and --gallery")
    elif data is None and not (query and gallery):
        raise ConfigError("nothing to measure on: give --data, or --query and --gallery")
    if not wanted.recall:
        raise ConfigError("no k: give one at least, as in --k 1,5,10")
    for k in (*wanted.recall, *wanted.precision):
        if isinstance(k, bool) or not isinstance(k, Integral) or not 1 <= k <= MOST_K:
            raise ConfigError(f"k = {k!r}: every k is a number from 1 to {MOST_K:,}, as in --k 1,5")


def _test_set(
    data: str | None, query: str | None, gallery: str | None, format: str, split: str | None
) -> TestSet:
    if data is not None:
        return from_list(data, format=format, split=split)
    assert query is not None
    assert gallery is not None
    return from_query_and_gallery(query, gallery, format=format, split=split)


def _embedded(
    model: Place, test: TestSet, threads: int, device: str, world: World, source: Source
) -> Subject:
    """The set in the eyes of a model."""
    embedder = load(model, device=device)
    bad = BadImages()
    found = embed_records(
        embedder, test.catalog.records, threads=threads, bad=bad, world=world, source=source
    )
    if world.is_main:
        for row, reason in sorted(bad.reasons.items()):
            logger.warning("left out: %s: %s", test.catalog.records[row].origin, reason)
    return Subject(_name(model), found.vectors, found.rows, calibration_of(model, embedder))


def _name(model: Place) -> str:
    return storage.public(os.fspath(model)).rstrip("/") or os.fspath(model)


def _tell(test: TestSet, found: Evaluation) -> None:
    """What the reader of the figures must know of the images."""
    if test.in_both:
        logger.warning(
            "%s images stand in the query and in the gallery list: each is one image with both "
            "roles, and does not find itself",
            f"{test.in_both:,}",
        )
    if found.copies is not None and found.copies.queries:
        logger.warning("%s", copies_line(found.copies, found.scores.num_queries))


def _query_rows(found: Evaluation, subject: Subject, world: World) -> list[dict[str, Any]]:
    labels = torch.from_numpy(found.data.catalog.class_ids)[found.rows]
    roles = None if found.data.roles is None else found.data.roles[found.rows]
    vectors: Tensor = subject.vectors.to(world.device)
    first = nearest_images(
        vectors, labels, found.per_query.rows, roles=roles, world=world, device=world.device
    )
    return query_rows(found, first) if world.is_main else []
