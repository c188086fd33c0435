"""`lookalike doctor`: issues of the data, before training and after."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any

from lookalike import log, storage
from lookalike.commands.models import load
from lookalike.commands.run_info import required_config
from lookalike.commands.run_lists import is_own, lists_in
from lookalike.config.config import Config
from lookalike.config.same_setting import same_setting, settings_text
from lookalike.data.catalog import Catalog
from lookalike.data.inputs import optional_place
from lookalike.data.loading.bad_images import RELATIVE_PATHS, BadImages, none_readable
from lookalike.data.loading.image_source import Source
from lookalike.data.read_files import check_not_read
from lookalike.data.readers.annotation import BadRows, combined_error
from lookalike.data.readers.skipped_files import Skipped
from lookalike.distributed.world import World
from lookalike.errors import ConfigError, DataError
from lookalike.exporting.exported import ExportedModel
from lookalike.inspection.duplicates import check_duplicates
from lookalike.inspection.image_checks import check_images
from lookalike.inspection.image_facts import read_image_facts
from lookalike.inspection.issue import Diagnosis, Issue, Lists, by_severity
from lookalike.inspection.issue_page import render
from lookalike.inspection.label_checks import check_labels
from lookalike.inspection.list_checks import bad_rows, check_lists, distinct_rows, skipped_files
from lookalike.log import logger
from lookalike.model.embedder import Embedder
from lookalike.model.inference import embed_records
from lookalike.planning.choice import with_choices
from lookalike.planning.recipe import choose_by_file
from lookalike.run import DOCTOR_JSON, DOCTOR_PAGE
from lookalike.storage import Place
from lookalike.storage.output_checks import check_distinct, check_output_file
from lookalike.training.request_lists import create_source, open_catalogs
from lookalike.training.saved_lists import lists_named_by
from lookalike.training.setting_folders import folders_of


def doctor(
    config: Config | None = None,
    *,
    run: Place | None = None,
    data: Place | None = None,
    images: bool = True,
    **settings: Any,
) -> Diagnosis:
    """Find issues of lists, images and labels.

    With `run.output`, the results are written there too: `doctor.json`, and `doctor.html` with
    the images.

    Args:
        config: the request, of which `data` counts; None for the defaults.
        run: an output directory or its URI: its model finds doubtful labels of its training list,
            and its settings apply where `config` has none.
        data: with `run`, a list to judge instead of its training list. Unless it is one of the
            run, its columns, format and image folder are found by name and content, or those of
            `config`; only the separator of labels is the run's.
        images: check the images too, not only the lists.
        settings: values that differ from `config`, as in `train`.

    Raises:
        LookalikeError: there is no list, or it cannot be read as one. Issues are no errors.
    """
    config = Config.of(config, settings)
    config = with_choices(config, choose_by_file(config))
    run = optional_place("run", run)
    data = optional_place("data", data)
    output = _output_place(config)
    if run is None and data is not None:
        raise ConfigError("data is the list for a run to judge: give run (--run) too, or train")
    own_lists = run is not None and data is None and config.data.val is None
    if run is not None:
        trained = required_config(str(run))
        config = _as_trained(config, trained, folders_of(run), data)
    if config.data.train is None:
        raise ConfigError("no list: give data.train (--train), or a run (--run)")
    if output is not None:
        check_distinct(_results(output), lists_in(config))
    log.start()
    source = create_source(config)
    embedder = None if run is None else load(run, device=config.run.device)
    bad, skipped = BadRows(), list[Skipped]()
    named: AbstractContextManager[None] = nullcontext()
    if run is not None and own_lists:
        named = lists_named_by(run, config, instead="--data")
    try:
        with named:
            train, val = open_catalogs(config, bad, skipped)
    except DataError as error:
        if not bad.found:
            raise
        rows = combined_error(bad.found, ": ".join)
        raise DataError(f"{rows}\nwithout these rows: {error}") from None
    lists = Lists.of(train, val)
    if output is not None:
        check_not_read(_results(output), lists.records)
    facts, issues = check_lists(lists, train, val)
    if data is not None:  # nothing is trained on it
        issues = [issue for issue in issues if issue.kind != "no_validation"]
    issues += [*bad_rows(bad), *skipped_files(skipped)]
    if skipped:
        facts["skipped_files"] = [asdict(each) for each in skipped]
    if images:
        found = read_image_facts(
            lists.records,
            distinct_rows(lists.records),
            source=source,
        )
        facts["images"], more = check_images(lists, found, image_size=config.model.image_size)
        issues += [*more, *check_duplicates(lists, found)]
    if embedder is not None:
        facts["labels"], more = _judge_labels(embedder, train, source)
        issues += more
    diagnosis = Diagnosis(lists, facts, by_severity(issues), config.data.label_separator)
    if output is not None:
        _write(diagnosis, output, source)
    return diagnosis


_OF_THE_LIST = {
    "data.format", "data.path_column", "data.label_column", "data.image_root", "data.weights",
    "data.hierarchy",
}  # fmt: skip
"""Settings of the run's lists that do not hold for another one; see `reading_of`."""


def _as_trained(
    config: Config, trained: Config, folders: Mapping[str, str], data: str | None
) -> Config:
    """The run's settings with those of this call.

    Raises:
        ConfigError: settings of this call contradict the run.
    """
    if config.data.train is not None:
        raise ConfigError("data.train (--train) and a run exclude each other; give data (--data)")
    asked = config.asked() - {"run.output"}
    for key in sorted(asked):
        other = not key.startswith("data.") and key != "run.device"
        pair = config.get(key), trained.get(key), folders.get(key, "")
        if other and not same_setting(key, *pair):
            now, its = settings_text(key, *pair)
            raise ConfigError(
                f"{key}={now} contradicts the run, which has {its}; leave it out: with --run, "
                "settings of data and run.device apply"
            )
    own = {
        "run.device", "data.threads", "data.requests", "data.cache", "data.cache_size",
        "data.allow_truncated",
    }  # fmt: skip
    values: dict[str, Any] = {}
    if data is not None:
        values = {"data.val": None, "data.val_fraction": 0.0, "data.train": data}
        values |= {"data.classes": None, "data.num_classes": None}
        own |= {"data.val_split", "data.train_split"}
        if not is_own(trained, data):
            own |= _OF_THE_LIST
    elif "data.val" in asked:  # in the place of the run's own validation
        values = {"data.val_fraction": 0.0}
    values |= {key: config.get(key) for key in own | asked}
    return trained.with_values(values)


def _judge_labels(
    embedder: Embedder | ExportedModel, train: Catalog, source: Source
) -> tuple[dict[str, float], list[Issue]]:
    """Embed the training list and compare each image with the centres of the classes."""
    world = World(device=embedder.device)
    bad = BadImages()
    embedded = embed_records(embedder, train.records, bad=bad, world=world, source=source)
    if not len(embedded.rows):
        raise none_readable(train.records, bad.reasons, RELATIVE_PATHS)
    return check_labels(train, embedded.rows, embedded.vectors)


def _output_place(config: Config) -> str | None:
    """Place of the results, checked to be writable."""
    output = config.run.output
    if output is None:
        return None
    for place in _results(output):
        check_output_file(place)
    return output if storage.is_remote(output) else storage.local_path(output)


def _results(output: str) -> list[str]:
    return [storage.join(output, name) for name in (DOCTOR_JSON, DOCTOR_PAGE)]


def _write(diagnosis: Diagnosis, output: str, source: Source) -> None:
    found = json.dumps(diagnosis.to_dict(), ensure_ascii=False, indent=1) + "\n"
    page = render(diagnosis, source=source)
    places = dict(zip(_results(output), (found, page), strict=True))
    for place, text in places.items():
        storage.write_text(place, text)
    logger.info("written: %s", ", ".join(map(storage.public, places)))
