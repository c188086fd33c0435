"""`lookalike evaluate`: retrieval metrics of models on a labelled list, and their differences."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Unpack

import torch

from lookalike import log, storage
from lookalike.commands.embed_parts import PART_SIZE, EmbeddingTask, embed_together, forget_parts
from lookalike.commands.keyword_groups import split_keywords
from lookalike.commands.models import (
    calibration_of,
    load,
    training_counts,
)
from lookalike.commands.read_options import (
    QueryKeywords,
    ReadKeywords,
    ReadOptions,
    check_layout,
    check_query_layout,
    settings_among,
)
from lookalike.commands.run_lists import reading_of
from lookalike.data.inputs import optional_place, place_of, places_of
from lookalike.data.loading.bad_images import BadImages, none_readable, warn_left_out
from lookalike.data.loading.image_source import Source
from lookalike.data.read_files import check_not_read
from lookalike.data.readers import read_records
from lookalike.data.readers.annotation import ListLayout
from lookalike.data.record_table import RecordTable
from lookalike.distributed.world import World
from lookalike.errors import ConfigError
from lookalike.evaluation.evaluator import (
    MetricKeywords,
    MetricOptions,
    ModelVectors,
    common_images,
    compare_evaluations,
    measure,
    measure_scores,
)
from lookalike.evaluation.metric_tables import check_name, class_rows, query_rows, write_rows
from lookalike.evaluation.query_duplicates import duplicates_line
from lookalike.evaluation.result import Comparison, Evaluation
from lookalike.evaluation.testset import (
    ListKeywords,
    ListOptions,
    TestSet,
    from_files,
    from_list,
    from_query_and_gallery,
)
from lookalike.log import logger
from lookalike.metrics.rank_metrics import RECALL
from lookalike.metrics.scores import Scores, check_measurable
from lookalike.metrics.topk import nearest_images
from lookalike.model.inference import embed_records
from lookalike.storage import Place
from lookalike.storage.output_checks import check_distinct, check_output_file
from lookalike.vectors.vector_parts import Request

RESULT_JSON = "evaluation.json"


class EvaluateKeywords(ReadKeywords, QueryKeywords, total=False):
    """Those keywords of `evaluate` that are fields of options."""


class CompareKeywords(ReadKeywords, QueryKeywords, MetricKeywords, ListKeywords, total=False):
    """Those keywords of `compare` that are fields of options."""


def evaluate(
    model: Place,
    data: Place | None = None,
    *,
    query: Place | None = None,
    gallery: Place | None = None,
    format: str = "auto",
    split: str | None = None,
    label_separator: str | None = None,
    recall: int | Iterable[int] = RECALL,
    precision: int | Iterable[int] = (),
    full: bool = False,
    **more: Unpack[EvaluateKeywords],
) -> Scores:
    """Retrieval scores of one model: each image searches the others of its class.

    Where the data have roles (`is_query`, `is_gallery`), these hold. `compare` gives confidence
    intervals and more, also for a single model.

    Args:
        model: an output directory, a model folder, or an exported `.onnx` file.
        data: a list, manifest, table, folder or shards of labelled images.
        query: in place of `data`, the queries.
        gallery: with `query`, the images that are searched.
        format: auto, or one of `lookalike.data.readers.READERS`.
        split: where the data have splits, the one to measure on; the only one that is not `train`
            by default.
        label_separator: the text between the labels of an image; that of the run by default.
        recall: the k of Recall@k, one or several.
        precision: the k of precision@k, one or several.
        full: measure mean average precision and mINP too, which need the whole ranking.
        more: `query_path_column`, `query_label_column` and `query_image_root`, as in
            `lookalike.commands.read_options.QueryKeywords`; `threads`, `cache`, `cache_size`,
            `requests`, `allow_truncated`, `path_column`, `label_column`, `image_root` and
            `device`, as in `lookalike.commands.read_options.ReadOptions`.

    Raises:
        LookalikeError: no model, a wrong list, or nothing that can be measured.
    """
    asking, given = split_keywords(evaluate, more, QueryKeywords, ReadKeywords)
    model, reading = place_of("model", model), ReadOptions(**given)
    query_layout = reading.query_layout(asking)
    data, query, gallery = _places(data=data, query=query, gallery=gallery)
    check_inputs([model], data, query, gallery, (), None, split)
    check_query_layout(asking, query, "--query and --gallery")
    options = MetricOptions.of(recall=recall, precision=precision, full=full)
    with World.from_env(reading.device) as world:
        lists = ListOptions(format, split, label_separator)
        test = _test_set(data, query, gallery, lists, world, [model], reading.layout, query_layout)
        vectors = _embedded(model, test, reading, reading.source([model]), world)
        return measure_scores(test, vectors, options, world=world)


def compare(
    models: Place | Iterable[Place] = (),
    data: Place | None = None,
    *,
    query: Place | None = None,
    gallery: Place | None = None,
    embeddings: Place | Iterable[Place] = (),
    labels: Place | None = None,
    per_class: Place | None = None,
    per_query: Place | None = None,
    output: Place | None = None,
    **more: Unpack[CompareKeywords],
) -> Comparison:
    """Measure models on the same images, with confidence intervals; one, or several compared.

    With several, the metrics of each are followed by its differences to the first, measured on
    the same queries, and by whether they exceed chance.

    Args:
        models: output directories, or model folders; one or several.
        data: a list, manifest, table, folder or shards of labelled images.
        query: in place of `data`, the queries.
        gallery: with `query`, the images that are searched.
        embeddings: in place of models and images, `.npy` or `.parquet` files of vectors of the
            same images in the same order, a file for each model.
        labels: with `embeddings`, a file with one label a line; not needed where Parquet has them.
        per_class: a file, .csv or .jsonl, for the metrics of each class.
        per_query: a file, .csv or .jsonl, for those of each query, and its first results.
        output: a directory for evaluation.json, per_class.csv and per_query.csv. With workers on
            several machines it keeps the vectors too, part by part, until the end: a command that
            is started again does not embed what is done.
        more: `format`, `split`, `label_separator` (by default that of the first run) and
            `hierarchy`, as in `lookalike.evaluation.testset.ListOptions`; `recall`, `precision`,
            `full`, `verification`, `nmi` and `seed`, as in
            `lookalike.evaluation.evaluator.MetricOptions`; `query_path_column`,
            `query_label_column` and `query_image_root`, as in
            `lookalike.commands.read_options.QueryKeywords`; `threads`, `cache`, `cache_size`,
            `requests`, `allow_truncated`, `path_column`, `label_column`, `image_root` and
            `device`, as in `lookalike.commands.read_options.ReadOptions`.

    Raises:
        LookalikeError: no model, a wrong list, or nothing that can be measured.
    """
    metrics, form, asking, read = split_keywords(
        compare, more, MetricKeywords, ListKeywords, QueryKeywords, ReadKeywords
    )
    reading, listing = ReadOptions(**read), ListOptions(**form)
    query_layout = reading.query_layout(asking)
    models, embeddings = places_of("models", models), places_of("embeddings", embeddings)
    data, query, gallery, labels = _places(data=data, query=query, gallery=gallery, labels=labels)
    per_class, per_query, output = _places(per_class=per_class, per_query=per_query, output=output)
    check_name(per_class)
    check_name(per_query)
    if output is not None:
        per_class = per_class or storage.join(output, "per_class.csv")
        per_query = per_query or storage.join(output, "per_query.csv")
    result_json = None if output is None else storage.join(output, RESULT_JSON)
    outputs = [place for place in (per_class, per_query, result_json) if place is not None]
    for place in outputs:
        check_output_file(place)
    lists = (data, query, gallery, labels, listing.hierarchy)
    check_distinct(outputs, (*models, *embeddings, *lists))
    check_inputs(models, data, query, gallery, embeddings, labels, listing.split)
    check_layout(reading.layout, data or query, "--data, not --embeddings")
    check_query_layout(asking, query, "--query and --gallery")
    options = MetricOptions.of(**metrics)
    with World.from_env(reading.device) as world:
        if not world.is_main:
            log.start(logging.ERROR)
        kept = _Kept(output) if output is not None and world.on_several_machines else None
        if embeddings:
            test, files = from_files(embeddings, labels, listing)
            check_measurable(test.catalog)
            rows = torch.arange(len(test.catalog))
            measured = [ModelVectors(name, x, rows, has_files=False) for name, x in files]
            counts: list[dict[str, int] | None] = [None] * len(files)
        else:
            test = _test_set(
                data, query, gallery, listing, world, models, reading.layout, query_layout
            )
            check_not_read(outputs, test.catalog.records)
            source = reading.source(models)
            measured = common_images(
                [_embedded(model, test, reading, source, world, kept) for model in models]
            )
            counts = [training_counts(model) for model in models]
        evaluations = [
            measure(test, vectors, options, training_counts=known, world=world)
            for vectors, known in zip(measured, counts, strict=True)
        ]
        found = compare_evaluations(evaluations, options.seed)
        if world.is_main:
            _warn(test, evaluations[0])
        if per_class is not None and world.is_main:
            write_rows(per_class, [row for one in evaluations for row in class_rows(one)])
        if per_query is not None:
            rows_of = [
                _query_rows(one, vectors, world)
                for one, vectors in zip(evaluations, measured, strict=True)
            ]
            if world.is_main:
                write_rows(per_query, [row for rows in rows_of for row in rows])
        if result_json is not None and world.is_main:
            text = json.dumps(found.to_dict(), indent=1) + "\n"
            storage.write_text(result_json, text)
        if world.is_main:
            for place in outputs:
                logger.info("written: %s", storage.public(place))
        if kept is not None:
            for request in kept.requests:
                forget_parts(request, kept.output, world)
    return found


def _places(**places: Place | None) -> list[str | None]:
    return [optional_place(name, value) for name, value in places.items()]


def check_inputs(
    models: Sequence[Place],
    data: str | None,
    query: str | None,
    gallery: str | None,
    embeddings: Sequence[Place] | None,
    labels: str | None,
    split: str | None,
) -> None:
    """Raise a ConfigError about inputs that contradict each other, before any work."""
    lists = [data, query, gallery]
    if embeddings:
        if models or any(lists) or split is not None:
            raise ConfigError(
                "--embeddings are measured as they are: leave out the models, --data, --query, "
                "--gallery and --split"
            )
    elif not models:
        raise ConfigError("nothing to measure: give a run, or --embeddings with --labels")
    elif labels is not None:
        raise ConfigError("--labels belongs to --embeddings; a run's images have theirs in --data")
    elif data is not None and (query or gallery):
        raise ConfigError("--data excludes --query and --gallery")
    elif data is None and not (query and gallery):
        raise ConfigError("nothing to measure on: give --data, or --query and --gallery")


def _test_set(
    data: str | None,
    query: str | None,
    gallery: str | None,
    options: ListOptions,
    world: World,
    models: Sequence[Place],
    layout: ListLayout,
    query_layout: ListLayout,
) -> TestSet:
    """The images to measure on; lists of the first run of `models` are read as by its training."""
    config = settings_among(models)

    def read(place: str, layout: ListLayout = layout) -> RecordTable:
        format, annotation = reading_of(
            place,
            options.format,
            config,
            layout=layout,
            separator=options.label_separator,
            coarser=options.annotation.coarser_columns,
        )
        return read_records(place, format, annotation)

    if data is not None:
        test = from_list(data, options, world, read)
    else:
        assert query is not None
        assert gallery is not None
        read_query = partial(read, layout=query_layout)
        test = from_query_and_gallery(query, gallery, options, world, read, read_query)
    check_measurable(test.catalog)
    return test


@dataclass
class _Kept:
    """Vectors that are kept in parts below `output` until the results are written."""

    output: str
    requests: list[Request] = field(default_factory=list)


def _embedded(
    model: Place,
    test: TestSet,
    reading: ReadOptions,
    source: Source,
    world: World,
    kept: _Kept | None = None,
) -> ModelVectors:
    embedder = load(model, device=reading.device)
    bad, records = BadImages(), test.catalog.records
    if kept is None:
        found = embed_records(embedder, records, bad=bad, world=world, source=source)
    else:
        task = EmbeddingTask(embedder, records, source, world, PART_SIZE)
        kept.requests.append(task.request)
        found = embed_together(task, kept.output, bad)
    if not len(found.rows):
        raise none_readable(records, bad.reasons)
    if world.is_main:
        warn_left_out(records, bad.reasons)
    name = storage.public(os.fspath(model)).rstrip("/") or os.fspath(model)
    return ModelVectors(name, found.vectors, found.rows, calibration_of(model, embedder))


def _warn(test: TestSet, found: Evaluation) -> None:
    """Warn of images that are queries and in the gallery."""
    if test.in_both:
        logger.warning(
            "%s images are in the query and in the gallery list: each is one image with both "
            "roles, and does not find itself",
            f"{test.in_both:,}",
        )
    if found.copies is not None and found.copies.queries:
        logger.warning("%s", duplicates_line(found.copies, found.scores.num_queries))


def _query_rows(found: Evaluation, vectors: ModelVectors, world: World) -> list[dict[str, Any]]:
    labels = torch.from_numpy(found.data.catalog.all_ids)[found.rows]
    roles = None if found.data.roles is None else found.data.roles[found.rows]
    nearest = nearest_images(
        vectors.vectors.to(world.device),
        labels,
        found.per_query.rows,
        roles=roles,
        world=world,
        device=world.device,
    )
    return query_rows(found, nearest) if world.is_main else []
