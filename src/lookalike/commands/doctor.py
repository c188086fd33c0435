"""`lookalike doctor`: what is wrong with the data, before training and after."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lookalike import log, storage
from lookalike.commands.embed import load
from lookalike.commands.run_info import required_config
from lookalike.config.config import Config
from lookalike.data.catalog import Catalog
from lookalike.data.inputs import place_of
from lookalike.data.loading.bad_images import BadImages
from lookalike.data.loading.image_source import Source
from lookalike.data.readers.annotation import BadRows
from lookalike.data.readers.skipped_files import Skipped
from lookalike.distributed.world import World
from lookalike.errors import ConfigError, DataError, RunError
from lookalike.exporting.exported import ExportedModel
from lookalike.inspection.duplicate_checks import inspect_copies
from lookalike.inspection.image_checks import inspect_looks
from lookalike.inspection.image_facts import read_pictures
from lookalike.inspection.issue import Diagnosis, Finding, Lists, worst_first
from lookalike.inspection.issue_page import render
from lookalike.inspection.label_checks import inspect_labels
from lookalike.inspection.list_checks import bad_rows, distinct_rows, inspect_lists
from lookalike.inspection.path_checks import inspect_skipped
from lookalike.log import logger
from lookalike.model.embedder import Embedder
from lookalike.model.inference import embed_records
from lookalike.run import DOCTOR_JSON, DOCTOR_PAGE
from lookalike.storage import Place
from lookalike.training.build import create_source, open_catalogs


def doctor(
    config: Config | None = None,
    *,
    run: Place | None = None,
    data: Place | None = None,
    images: bool = True,
    **settings: Any,
) -> Diagnosis:
    """Look for what is wrong with lists, images and labels.

    With `run.output`, the results are written there too: `doctor.json`, and `doctor.html` with
    the pictures.

    Args:
        config: the request, of which `data` counts; None for the defaults.
        run: an output directory or its URI: its model tells which labels of its training list are
            doubtful, and `config` is added to by what it was trained with.
        data: with `run`, another list to judge in place of its training list.
        images: look into the images too, not only at the lists.
        settings: values that differ from `config`, as `train` takes them.

    Returns:
        What was found; faults are no errors.

    Raises:
        LookalikeError: there is no list, or it cannot be read as one.
    """
    config = Config.of(config, settings)
    run = None if run is None else place_of("run", run)
    data = None if data is None else place_of("data", data)
    output = _output_place(config)
    if run is None and data is not None:
        raise ConfigError("data is the list that a run is to judge: give run (--run) too, or train")
    if run is not None:
        config = _as_trained(config, required_config(str(run)), data)
    if config.data.train is None:
        raise ConfigError("nothing to look at: give data.train (--train), or a run (--run)")
    log.start()
    source = create_source(config)
    embedder = None if run is None else load(run, device=config.run.device)
    bad, skipped = BadRows(), list[Skipped]()
    train, val = open_catalogs(config, bad, skipped)
    lists = Lists.of(train, val)
    facts, found = inspect_lists(lists, train, val)
    found += [*bad_rows(bad), *inspect_skipped(skipped)]
    if skipped:
        facts["skipped_files"] = [asdict(each) for each in skipped]
    if images:
        pictures = read_pictures(
            lists.records,
            distinct_rows(lists.records),
            threads=config.data.threads,
            source=source,
        )
        facts["images"], more = inspect_looks(lists, pictures, image_size=config.model.image_size)
        found += [*more, *inspect_copies(lists, pictures)]
    if embedder is not None:
        facts["labels"], more = _judge_labels(embedder, train, config.data.threads, source)
        found += more
    diagnosis = Diagnosis(lists, facts, worst_first(found))
    if output is not None:
        _write(diagnosis, output, config.data.threads, source)
    return diagnosis


def _as_trained(config: Config, trained: Config, data: str | None) -> Config:
    """The run's request, with what was asked for now where it differs from the defaults."""
    if config.data.train is not None:
        raise ConfigError("data.train (--train) and a run exclude each other; give data (--data)")
    own = (
        "run.device",
        "data.threads",
        "data.requests",
        "data.cache",
        "data.cache_size",
        "data.allow_truncated",
    )
    values: dict[str, Any] = {key: config.get(key) for key in own}
    if data is not None:
        other = {"train": data, "val": None, "val_fraction": 0.0, "format": config.data.format}
        other |= {"classes": None, "num_classes": None, "val_split": config.data.val_split}
        other |= {"train_split": config.data.train_split}
        values |= {f"data.{key}": value for key, value in other.items()}
    return trained.with_values(values)


def _judge_labels(
    embedder: Embedder | ExportedModel, train: Catalog, threads: int, source: Source
) -> tuple[dict[str, float], list[Finding]]:
    """Embed the training list and compare each image with the centres of the classes."""
    world = World(device=embedder.device)
    embedded = embed_records(
        embedder, train.records, threads=threads, bad=BadImages(), world=world, source=source
    )
    if not len(embedded.rows):
        raise DataError(f"{train.records[0].source}: none of its images can be read")
    return inspect_labels(train, embedded.rows, embedded.vectors)


def _output_place(config: Config) -> str | None:
    """Where the results go, tried before the work."""
    output = config.run.output
    if output is None:
        return None
    if storage.is_remote(output):
        storage.check_writable(output)
        storage.sizes_below(output)
        return output
    try:
        Path(storage.local_path(output)).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise RunError(f"{output}: cannot be made: {reason}") from None
    return storage.local_path(output)


def _write(diagnosis: Diagnosis, output: str, threads: int, source: Source) -> None:
    found = json.dumps(diagnosis.to_dict(), ensure_ascii=False, indent=1) + "\n"
    page = render(diagnosis, threads=threads, source=source)
    results = {DOCTOR_JSON: found, DOCTOR_PAGE: page}
    places = {storage.join(output, name): text for name, text in results.items()}
    for place, text in places.items():
        storage.write_bytes(place, text.encode())
    logger.info("written: %s", ", ".join(map(storage.public, places)))
