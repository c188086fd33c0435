"""Lists of a request: read into catalogs, copied where they are streams, and checked."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from lookalike import storage
from lookalike.config.config import Config
from lookalike.data.catalog import Catalog, build_catalog, check_trainable, with_hierarchy
from lookalike.data.held_out_classes import hold_out
from lookalike.data.hierarchy import hierarchy_columns
from lookalike.data.image_weights import with_weights
from lookalike.data.loading.image_source import Source
from lookalike.data.readers import read_records
from lookalike.data.readers.annotation import AnnotationOptions, BadRows, names_file
from lookalike.data.readers.skipped_files import Skipped
from lookalike.data.readers.streams import is_stream, keep_list
from lookalike.data.shared_records import read_once
from lookalike.data.splits import TRAIN, VALIDATION, select, split_name, splits_of
from lookalike.distributed.world import ALONE, World
from lookalike.errors import ConfigError
from lookalike.metrics.scores import check_measurable
from lookalike.storage.byte_size import in_bytes
from lookalike.storage.disk_cache import DiskCache


def annotation_options(config: Config) -> AnnotationOptions:
    """Reading options of the lists."""
    data = config.data
    return AnnotationOptions(
        path_column=data.path_column,
        label_column=data.label_column,
        label_separator=data.label_separator,
        coarser_columns=hierarchy_columns(data.hierarchy),
        image_root=data.image_root,
    )


def training_options(config: Config, options: AnnotationOptions) -> AnnotationOptions:
    """`options` with the column of weights, which validation lists need not have."""
    weights = config.data.weights
    if weights is None or names_file(weights):
        return options
    return replace(options, weight_column=weights)


def keep_streams(config: Config) -> Config:
    """Request with lists that can be read only once copied to files (`data.readers.streams`)."""
    streams = {
        key: value
        for key in ("data.train", "data.val")
        if isinstance(value := config.get(key), str) and is_stream(value)
    }
    if len(set(streams.values())) < len(streams):
        raise ConfigError("data.train and data.val are both standard input; give a file for one")
    if not streams:
        return config
    values = {}
    for key, uri in streams.items():
        options = annotation_options(config)
        if key == "data.train":
            options = training_options(config, options)
        values[key] = keep_list(read_records(uri, config.data.format, options), options)
    # The copy is a table in any case.
    return config.with_values({**values, "data.format": "auto"})


def open_catalogs(
    config: Config,
    bad: BadRows | None = None,
    skipped: list[Skipped] | None = None,
    world: World = ALONE,
) -> tuple[Catalog, Catalog | None]:
    """Training set, and validation set where one is given or held out.

    Args:
        bad: collects complaints about rows, which are then left out; None to raise them.
        skipped: collects what is skipped of image folders, by kind.
        world: the workers, one of which on each machine reads; they call this together.
    """
    data = config.data
    assert data.train is not None
    options = replace(annotation_options(config), bad=bad, skipped=skipped)
    read = partial(read_records, data.train, data.format, training_options(config, options))
    records = read_once(read, world)
    learned = select(records, data.train_split, required=split_name(data.train_split) != TRAIN)
    catalog = build_catalog(learned, classes=data.classes, num_classes=data.num_classes)
    if data.weights is not None:
        catalog = with_weights(catalog, data.weights)
    catalog = with_hierarchy(catalog, data.hierarchy)
    held_out = None
    val_split = split_name(data.val_split)
    if data.val is not None:
        if data.val_fraction:
            raise ConfigError("data.val and data.val_fraction exclude each other; give one")
        read = partial(read_records, data.val, data.format, options)
        measured = select(read_once(read, world), val_split, required=val_split != VALIDATION)
        held_out = with_hierarchy(build_catalog(measured), data.hierarchy)
    elif data.val_fraction:
        catalog, held_out = hold_out(catalog, data.val_fraction, config.train.seed)
    elif val_split != VALIDATION or val_split in splits_of(records):
        held_out = with_hierarchy(build_catalog(select(records, val_split)), data.hierarchy)
    check_trainable(catalog)
    return catalog, held_out


def check_validation(config: Config, held_out: Catalog | None) -> None:
    """Check that the validation set can be measured, and that early stopping has one.

    Raises:
        ConfigError: early stopping has none.
        DataError: no query of the set has an image to find.
    """
    if held_out is not None:
        check_measurable(held_out)
    patience = config.train.early_stopping
    if patience and (held_out is None or not config.train.eval_every):
        needed = (
            "train.eval_every of 1 or more" if held_out else "a validation set: give --val LIST"
        )
        raise ConfigError(f"train.early_stopping={patience} needs {needed}, or leave it out")


def reading_options(config: Config) -> dict[str, Any]:
    """Settings that decide which images can be read, and what their pixels are, by name."""
    data = config.data
    return {
        "allow_truncated": data.allow_truncated,
        "max_image_size": in_bytes(data.max_image_size),
    }


def create_source(config: Config) -> Source:
    """Source of image bytes."""
    data = config.data
    cache = None if data.cache is None else DiskCache(data.cache, in_bytes(data.cache_size))
    limits = storage.Limits(in_bytes(data.max_image_size), data.image_timeout)
    return Source(
        threads=data.threads,
        requests=data.requests,
        cache=cache,
        limits=limits,
        allow_truncated=data.allow_truncated,
    )
