"""`lookalike doctor`: what is wrong with the data, before training and after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lookalike import log, storage
from lookalike.assembly import open_catalogs
from lookalike.config import Config
from lookalike.data.bad_images import BadImages
from lookalike.data.catalog import Catalog
from lookalike.distributed import World
from lookalike.errors import ConfigError, DataError, RunError
from lookalike.inference import embed_records
from lookalike.inspection.copies import inspect_copies
from lookalike.inspection.finding import Diagnosis, Finding, Lists, worst_first
from lookalike.inspection.labels import inspect_labels
from lookalike.inspection.listing import distinct_rows, inspect_lists
from lookalike.inspection.looks import inspect_looks
from lookalike.inspection.page import render
from lookalike.inspection.pictures import read_pictures
from lookalike.log import logger
from lookalike.run import Run, write_text
from lookalike.verbs.embed import load


def doctor(
    config: Config | None = None,
    *,
    run: str | Path | None = None,
    data: str | None = None,
    images: bool = True,
    **settings: Any,
) -> Diagnosis:
    """Look for what is wrong with lists, images and labels.

    With `run.output`, the results are written there too: `doctor.json`, and `doctor.html` with
    the pictures.

    Args:
        config: the request, of which `data` counts; None for the defaults.
        run: an output directory: its model tells which labels of its training list are doubtful,
            and `config` is added to by what it was trained with.
        data: with `run`, another list to judge in place of its training list.
        images: look into the images too, not only at the lists.
        settings: values that differ from `config`, as `train` takes them.

    Returns:
        What was found; faults are no errors.

    Raises:
        LookalikeError: there is no list, or it cannot be read as one.
    """
    config = (config or Config()).with_settings(settings)
    output = _output_folder(config)
    if run is None and data is not None:
        raise ConfigError("data is the list that a run is to judge: give run (--run) too, or train")
    if run is not None:
        config = _as_trained(config, Run.open(run), data)
    if config.data.train is None:
        raise ConfigError("nothing to look at: give data.train (--train), or a run (--run)")
    log.start()
    train, val = open_catalogs(config)
    lists = Lists.of(train, val)
    facts, found = inspect_lists(lists, train, val)
    if images:
        pictures = read_pictures(
            lists.records, distinct_rows(lists.records), threads=config.data.threads
        )
        facts["images"], more = inspect_looks(lists, pictures, image_size=config.model.image_size)
        found += [*more, *inspect_copies(lists, pictures)]
    if run is not None:
        facts["labels"], more = _judge_labels(config, train, run)
        found += more
    diagnosis = Diagnosis(lists, facts, worst_first(found))
    if output is not None:
        _write(diagnosis, output, config.data.threads)
    return diagnosis


def _as_trained(config: Config, run: Run, data: str | None) -> Config:
    """The run's request, with what was asked for now where it differs from the defaults."""
    trained = Config.load(run.config)
    if config.data.train is not None:
        raise ConfigError("data.train (--train) and a run exclude each other; give data (--data)")
    values: dict[str, Any] = {"run.device": config.run.device, "data.threads": config.data.threads}
    if data is not None:
        other = {"train": data, "val": None, "val_fraction": 0.0, "format": config.data.format}
        other |= {"classes": None, "num_classes": None, "val_split": config.data.val_split}
        other |= {"train_split": config.data.train_split}
        values |= {f"data.{key}": value for key, value in other.items()}
    return trained.with_values(values)


def _judge_labels(
    config: Config, train: Catalog, run: str | Path
) -> tuple[dict[str, int], list[Finding]]:
    """Embed the training list and compare each image with the centres of the classes."""
    embedder = load(run, device=config.run.device)
    bad = BadImages()
    world = World(device=embedder.device)
    embedded = embed_records(
        embedder, train.records, threads=config.data.threads, bad=bad, world=world
    )
    if not len(embedded.rows):
        raise DataError(f"{train.records[0].source}: none of its images can be read")
    return inspect_labels(train, embedded.rows, embedded.vectors)


def _output_folder(config: Config) -> Path | None:
    """The folder for the results, made before the work."""
    if config.run.output is None:
        return None
    if storage.is_remote(config.run.output):
        raise ConfigError(
            f"run.output={storage.public(config.run.output)}: the doctor writes to a directory of "
            "this machine; give one"
        )
    output = Path(storage.local_path(config.run.output))
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise RunError(f"{output}: cannot be made: {reason}") from None
    return output


def _write(diagnosis: Diagnosis, output: Path, threads: int) -> None:
    text = json.dumps(diagnosis.to_dict(), ensure_ascii=False, indent=1) + "\n"
    write_text(output / "doctor.json", text)
    write_text(output / "doctor.html", render(diagnosis, threads=threads))
    logger.info("written: %s, %s", output / "doctor.json", output / "doctor.html")
