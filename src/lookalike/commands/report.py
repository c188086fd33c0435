"""`lookalike report`: a run as one page, with images."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from lookalike import log, storage
from lookalike.commands import run_info
from lookalike.commands.models import calibration_of, load
from lookalike.commands.read_options import check_layout
from lookalike.commands.run_lists import is_own, lists_in, reading_of
from lookalike.config.config import Config
from lookalike.data.catalog import Catalog, open_catalog, with_hierarchy
from lookalike.data.hierarchy import hierarchy_columns
from lookalike.data.inputs import optional_place, place_of
from lookalike.data.loading.bad_images import BadImages, none_readable
from lookalike.data.loading.image_source import Source
from lookalike.data.read_files import check_not_read
from lookalike.data.readers.annotation import ListLayout
from lookalike.distributed.world import World
from lookalike.errors import ConfigError, DataError, LookalikeError, StorageError
from lookalike.log import logger
from lookalike.metrics.scores import check_measurable
from lookalike.model.embedder import Embedder
from lookalike.model.inference import Embedded, PictureModel, embed_records
from lookalike.reporting.evaluation_data import EvaluationData, evaluate_list
from lookalike.reporting.report_data import ReportData
from lookalike.reporting.report_page import render
from lookalike.run import REPORT, Run
from lookalike.storage import Place
from lookalike.storage.output_checks import check_distinct, check_output_file
from lookalike.training.request_lists import create_source, open_catalogs
from lookalike.training.saved_lists import lists_named_by
from lookalike.training.validation import in_training

_LACKING = (
    "There was no validation list: retrieval was not measured. To measure it on a list, with the "
    "neighbours of its images: lookalike report RUN --data LIST"
)


def report(
    run: Place,
    *,
    data: Place | None = None,
    compare: Place | None = None,
    output: Place | None = None,
    format: str = "auto",
    split: str | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    image_root: str | None = None,
    threads: int | None = None,
    device: str = "auto",
) -> str:
    """Write the page of a run: scores, curves, queries with their neighbours, a map.

    Args:
        run: an output directory, or its URI in object storage.
        data: list of labelled images to evaluate instead of the run's validation list.
        compare: another run: its curves beside these, and its model on the same images.
        output: file to write, here or in object storage; by default `report.html` of the run.
        format: of `data`: auto, or one of `lookalike.data.readers.READERS`.
        split: of `data`, if it has splits; by default the only one that is not `train`.
        path_column: of `data`, if it is a table; by default found by name and content.
        label_column: of `data`, if it is a table; by default found by name.
        image_root: the folder or URI at which relative paths in `data` start; by default its
            folder.
        threads: that read and decode; by default as in the training.
        device: auto, cpu or cuda.

    Returns:
        The place of the page.

    Raises:
        LookalikeError: no run, a wrong list, no image of it with another of its class, or a place
            that cannot be written.
    """
    log.start()
    place = place_of("run", run)
    data = optional_place("data", data)
    compare = optional_place("compare", compare)
    if split is not None and data is None:
        raise ConfigError(f"split={split!r} (--split) is one of data: give --data too")
    layout = ListLayout(path_column, label_column, image_root)
    check_layout(layout, data, "--data too")
    target = _target(place, output)
    config = run_info.required_config(place)
    check_distinct([target], [data, *lists_in(config)])
    other, other_history, other_validated_on = None, None, ""
    if compare is not None:
        other = os.fspath(compare)
        other_config, other_history = run_info.required_config(other), run_info.history(other)
        other_validated_on = run_info.validated_on(other_config, other_history)
    reading = config if threads is None else config.with_values({"data.threads": threads})
    source = create_source(reading)
    train, shown, unreadable = _lists(place, config, data, format, split, layout, target)
    check_not_read([target], chain.from_iterable(one.records for one in (train, shown) if one))
    evaluation = other_evaluation = None
    if shown is not None:
        check_measurable(shown)
        where = World.device_from_env(device)
        trained = None if train is None else _training_images(shown, train)
        found = [
            _embedded(load(one, device=device), shown, source)
            for one in (place, other)
            if one is not None
        ]
        # Models are compared query by query, on the images that both could embed.
        rows = found[0].rows[torch.isin(found[0].rows, found[-1].rows)]
        evaluation, *others = [
            _evaluation(each, rows, shown, trained, seed=config.train.seed, device=where)
            for each in found
        ]
        other_evaluation = others[0] if others else None
    report = replace(
        _report_data(place, config, train, shown, evaluation, source, unreadable),
        listed="" if data is None else storage.public(data),
        own=data is None,
        other_validated_on=other_validated_on,
        other=other_history,
        other_evaluation=other_evaluation,
    )
    return _write(report, target)


def report_training(
    run: Run,
    config: Config,
    train: Catalog,
    held_out: Catalog | None,
    device: torch.device,
    source: Source,
) -> None:
    """Write the page of a training that has just ended; a failure is only a warning."""
    try:
        evaluation = None
        if held_out is not None:
            found = _embedded(Embedder.load(run.model, device), held_out, source)
            evaluation = _evaluation(
                found, found.rows, held_out, _training_images(held_out, train),
                seed=config.train.seed, device=device,
            )  # fmt: skip
        data = _report_data(str(run.path), config, train, held_out, evaluation, source)
        _write(data, str(run.report))
    except Exception as error:  # of any kind: it must not spoil the training
        kind = "" if isinstance(error, LookalikeError) else f"{type(error).__name__}: "
        logger.warning(
            "no report was written: %s%s. The training is complete and its model is saved; try "
            "again with: lookalike report %s",
            kind, error, shlex.quote(str(run.path)),
        )  # fmt: skip


def _report_data(
    run: str,
    config: Config,
    train: Catalog | None,
    shown: Catalog | None,
    evaluation: EvaluationData | None,
    source: Source,
    unreadable: str = "",
) -> ReportData:
    history = run_info.history(run)
    return ReportData(
        history=history,
        facts=run_info.facts(config, train, shown),
        settings=run_info.settings(config, run_info.reasons(run)),
        environment=run_info.environment(run),
        evaluation=evaluation,
        lacking="" if shown is not None else unreadable or _LACKING,
        validated_on=run_info.validated_on(config, history),
        calibration=calibration_of(run),
        seed=config.train.seed,
        source=source,
    )


def _target(run: str, output: Place | None) -> str:
    """Place of the page, checked to be writable."""
    target = storage.join(run, REPORT) if output is None else os.fspath(output)
    if output is not None and storage.is_remote(target):
        target = target if target.endswith(".html") else storage.join(target, REPORT)
    elif output is not None and storage.path_of(target).is_dir():
        target = storage.join(target, REPORT)
    check_output_file(target)
    return target


def _lists(
    run: str,
    config: Config,
    data: str | None,
    format: str,
    split: str | None,
    layout: ListLayout,
    target: str,
) -> tuple[Catalog | None, Catalog | None, str]:
    """The training list, the list to show, and the reason where they cannot be read.

    Raises:
        StorageError: they cannot be read, and the page `target`, which may have images, would be
            replaced by one without.
    """
    shown = None
    if data is not None:
        hierarchy = config.data.hierarchy if is_own(config, data) else None
        form = reading_of(data, format, config, layout=layout, coarser=hierarchy_columns(hierarchy))
        shown = with_hierarchy(open_catalog(data, *form, split=split), hierarchy)
    try:
        with lists_named_by(run, config, instead="--data"):
            train, held_out = open_catalogs(config)
    except LookalikeError as error:
        if shown is not None:
            logger.warning("scores by training images of each class are left out: %s", error)
            return None, shown, ""
        if storage.exists(target):
            raise StorageError(
                f"{error}; {storage.public(target)} stays as it is: for a page without the images "
                "give another --output"
            ) from None
        logger.warning("the images are left out: %s", error)
        return None, None, f"Images are left out: the list could not be read: {error}"
    return train, shown or held_out, ""


def _training_images(shown: Catalog, train: Catalog) -> np.ndarray:
    """(classes of `shown`,) int64, number of training images."""
    known = in_training(shown, train).numpy()
    counts = train.class_sizes()
    return np.where(known >= 0, counts[known], 0)


def _embedded(embedder: Embedder | PictureModel, shown: Catalog, source: Source) -> Embedded:
    bad = BadImages()
    found = embed_records(embedder, shown.records, bad=bad, source=source, what="report")
    if not len(found.rows):
        raise none_readable(shown.records, bad.reasons)
    return found


def _evaluation(
    found: Embedded,
    rows: Tensor,
    shown: Catalog,
    trained: np.ndarray | None,
    *,
    seed: int,
    device: torch.device,
) -> EvaluationData:
    """Evaluation on the images `rows`, some of those found."""
    if not len(rows):
        raise DataError(f"{shown.records[0].source}: none of its images can be read")
    vectors = found.vectors[torch.isin(found.rows, rows)]
    return evaluate_list(shown, rows, vectors, trained=trained, seed=seed, device=device)


def _write(data: ReportData, target: str) -> str:
    page = render(data).encode()
    storage.write_bytes(target, page)
    logger.info("report: %s (%.1f MB)", storage.public(target), len(page) / 1e6)
    return target
