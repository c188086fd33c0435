"""Metrics of each class and of each query, as tables in files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from lookalike import storage
from lookalike.errors import ConfigError
from lookalike.evaluation.result import Evaluation
from lookalike.metrics.topk import NearestImages

SUFFIXES = (".csv", ".jsonl")


def check_name(place: str | None) -> None:
    """Check the name of a table before any work.

    Raises:
        ConfigError: its name has another ending.
    """
    if place is not None and not place.endswith(SUFFIXES):
        raise ConfigError(f"{storage.public(place)}: the name must end in {' or '.join(SUFFIXES)}")


def class_rows(found: Evaluation) -> list[dict[str, Any]]:
    """A row for each class of the set, in the classes' order."""
    catalog, names = found.data.catalog, found.data.catalog.classes.names
    ids = catalog.all_ids[found.rows.numpy()]
    images = np.bincount(ids[ids >= 0], minlength=len(names))
    queries = np.bincount(found.classes, minlength=len(names))
    sums = {
        name: np.bincount(found.classes, values.numpy(), minlength=len(names))
        for name, values in found.per_query.values.items()
    }
    return [
        {
            "model": found.model,
            "label": names[row],
            "images": int(images[row]),
            "frequency": int(found.counts[row]),
            "counted_in": found.shots_by,
            "queries": int(queries[row]),
            **{name: _mean(total[row], queries[row]) for name, total in sums.items()},
        }
        for row in range(len(names))
    ]


def query_rows(found: Evaluation, nearest: NearestImages) -> list[dict[str, Any]]:
    """A row for each query that has something to find, in the order of the list."""
    records = [found.data.catalog.records[row] for row in found.rows.tolist()]
    rows = []
    for number, row in enumerate(found.per_query.rows.tolist()):
        query = records[row]
        entry = {
            "model": found.model,
            "path": query.place,
            "label": "|".join(query.labels),
            "origin": query.origin,
            "relevant": int(found.per_query.relevant[number]),
            **{k: float(values[number]) for k, values in found.per_query.values.items()},
        }
        for name, its, cosines in (
            ("nearest", nearest.rows, nearest.cosines),
            ("first_wrong", nearest.wrong_rows, nearest.wrong_cosines),
        ):
            other = int(its[number])
            entry[f"{name}_path"] = records[other].place if other >= 0 else None
            entry[f"{name}_label"] = "|".join(records[other].labels) if other >= 0 else None
            entry[f"{name}_cosine"] = float(cosines[number]) if other >= 0 else None
        rows.append(entry)
    return rows


def write_rows(place: str, rows: Iterable[dict[str, Any]]) -> None:
    """Write a table as CSV or as a JSON object a line, by the suffix of the name.

    Raises:
        StorageError: it cannot be written.
    """
    stream = io.StringIO(newline="")
    if place.endswith(".jsonl"):
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        rows = list(rows)
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    storage.write_text(place, stream.getvalue())


def _mean(total: float, count: int) -> float | None:
    return float(total / count) if count else None
