"""Weights of training images: a column of a table, or a file with a weight for each class."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from lookalike import storage
from lookalike.data.catalog import Catalog
from lookalike.data.classes import Classes
from lookalike.data.readers.annotation import (
    BadRows,
    canonical_label,
    content_lines,
    names_file,
    parse_weight,
    quoted,
    read_text,
)
from lookalike.errors import ConfigError, DataError


def with_weights(catalog: Catalog, weights: str) -> Catalog:
    """The catalog with the weight of each image, by `data.weights`, a column or a file.

    An image of several classes has the mean of their weights.

    Raises:
        StorageError: the file cannot be read.
        DataError: a line of it is wrong.
        ConfigError: no image has a weight, as in a list without columns.
    """
    if names_file(weights):
        of_class = read_class_weights(weights, catalog.classes)
        ids = catalog.all_ids.reshape(len(catalog), -1)  # (N, M), -1 beyond an image's own
        found = np.where(ids < 0, np.float32(0), of_class[ids]).sum(1) / (ids >= 0).sum(1)
    else:
        each = [record.details.weight if record.details else None for record in catalog.records]
        if all(weight is None for weight in each):
            raise ConfigError(
                f"data.weights={weights}: no image has a weight there; name a column of numbers in "
                "a CSV, JSON or Parquet table, or a file (.txt, .csv, .tsv) of label and weight"
            )
        found = np.array([1.0 if weight is None else weight for weight in each], np.float32)
    return replace(catalog, weights=found.astype(np.float32))


def read_class_weights(uri: str, classes: Classes) -> np.ndarray:
    """Weights of the classes, (C,) float32; 1 for those that the file does not name.

    A line is a label, then blanks, a tab or a comma, then a number of 0 or more. Empty lines, those
    that begin with `#` and a first line `label,weight` are skipped.

    Raises:
        StorageError: the file cannot be read.
        DataError: a line is malformed, its label is no class or was there before.
    """
    found = np.ones(len(classes), np.float32)
    given: dict[int, int] = {}
    source, bad = storage.public(uri), BadRows()
    for number, line in content_lines(read_text(uri)):
        place = f"{source}:{number}"
        match = re.fullmatch(r"(.*?)(?:\s*,\s*|\s+)([^\s,]+)", line)
        if match is None:
            bad.add(place, f"{quoted(line)} is not a label and its weight, as: cat 2.5")
            continue
        label, text = match[1].strip().strip('"'), match[2]
        if not given and (label.lower(), text.lower()) == ("label", "weight"):
            continue
        row = classes.rows.get(canonical_label(label))
        try:
            weight = parse_weight(text)
        except ValueError as error:
            bad.add(place, error)
            continue
        if row is None:
            reason = classes.unknown(label).partition("; fix the line")[0]
            bad.add(place, f"{reason}; fix the label or remove the line")
        elif row in given:
            bad.add(place, f"label {quoted(label)} is in line {given[row]} already")
        else:
            given[row] = number
            found[row] = weight
    bad.raise_any()
    if not given:
        raise DataError(f"{source}: no weights; write lines of label and weight")
    return found


def relative_weights(weights: np.ndarray) -> np.ndarray:
    """Weights (N,) divided by their mean, (N,) float32.

    So the learning rate keeps its meaning, and only ratios of weights count.

    Raises:
        DataError: all are 0.
    """
    mean = weights.mean(dtype=np.float64)
    if mean == 0:
        raise DataError(
            f"data.weights: all {len(weights):,} training images have the weight 0; give those to "
            "learn from a weight above 0"
        )
    return (weights / mean).astype(np.float32)
