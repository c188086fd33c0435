"""The manifest of PAI's iTAG, as the component's ClsSourceItag reads it: one JSON object a line.

    {"data": {"source": "oss://bucket.oss-cn-hangzhou.aliyuncs.com/a.jpg"},
     "label-143": {"results": [{"data": "cat"}]}, "label-143-verify": {...}}

An answer is text, or an object `{"labels": {"<the question>": "cat"}}`. Policies:

- Stages: `...-verify` counts over `...-check` over the first answer. The highest stage that is
  there decides, even if it is empty: a checker who threw an answer out meant it.
- Items without an answer (skipped, or not annotated yet) are left out, counted and logged.
- Items with several different labels are bad lines: an image has one class here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from math import isfinite

from lookalike import storage
from lookalike.data.readers.annotation import (
    BadRows,
    Malformed,
    label_in,
    lines,
    malformed,
    quoted,
    read_text,
    unusable,
)
from lookalike.data.readers.reader_options import PLAIN, Reading
from lookalike.data.record import Record
from lookalike.errors import DataError

_log = logging.getLogger(__name__)


def read(uri: str, text: str | None = None, how: Reading = PLAIN) -> list[Record]:
    """The records of an iTAG manifest.

    `oss://bucket.endpoint/key` URIs are kept as they are; relative paths start at the manifest's
    folder.

    Args:
        uri: the manifest.
        text: its content, if the caller has read it already.
        how: what to look for; items without an answer are left out where labels are needed.

    Raises:
        StorageError: the manifest cannot be read.
        DataError: bad lines (all reported together, the first ten in full), or no records.
    """
    text = read_text(uri) if text is None else text
    source = storage.public(uri)
    resolve = how.resolver(uri)
    labels: dict[str, str] = {}  # keeps one object a label
    records: list[Record] = []
    bad = BadRows()
    left_out = 0
    for number, line in enumerate(lines(text), 1):
        line = line.strip()
        if not line:
            continue
        try:
            item = _parse(line)
            answers = _answers_of(item)
            if not answers and how.labelled:
                left_out += 1
                continue
            label = label_in(_one(answers) if answers else "", how.labelled)
            place = resolve(_image(item))
        except Malformed as error:
            bad.add(f"{source}:{number}", str(error))
        else:
            records.append(Record(place, labels.setdefault(label, label), source, number))
    how.settle(bad)
    if not records and not bad.found:
        raise DataError(
            f"{source}: the manifest holds no labelled image ({left_out:,} items without an answer)"
        )
    if left_out:
        total = left_out + len(records)
        _log.warning("%s: %d of %d items left out: no answer", source, left_out, total)
    return records


def _parse(line: str) -> dict[str, object]:
    try:
        item = json.loads(line)
    except json.JSONDecodeError as error:
        message = f"{quoted(line)} is not JSON ({error.msg} at column {error.colno})"
        raise Malformed(f"{message}; write one object a line") from None
    except (ValueError, RecursionError):  # a number or a nesting beyond Python's limits
        raise Malformed(f"{quoted(line)} is not sensible JSON; write one object a line") from None
    if not isinstance(item, dict):
        raise Malformed(f"{quoted(line)} is not a JSON object; write one object a line")
    return item


def _image(item: dict[str, object]) -> str:
    """`data.source`; a custom template may name its only field otherwise."""
    data = item.get("data")
    source = data.get("source") if isinstance(data, dict) else None
    if source is None and isinstance(data, dict) and len(data) == 1:
        source = next(iter(data.values()))
    if not isinstance(source, str) or not source.strip():
        raise Malformed("data.source is missing; it must be the image's path or URI")
    if unusable(source):
        raise Malformed(f"data.source {quoted(source)} holds a control character; remove it")
    if ":" in source and malformed(source.strip()):
        raise Malformed(f"data.source {quoted(source)} is not a valid URI; correct it")
    return source.strip()


def _answers_of(item: dict[str, object]) -> list[str]:
    """The different answers of the highest stage, in order; none if it is empty."""
    keys = [key for key, value in item.items() if "label" in key and value]
    if len(keys) > 1:
        highest = max(map(_stage, keys))
        keys = [key for key in keys if _stage(key) == highest]
    answers: dict[str, None] = {}
    for key in keys:
        text = _plain(item[key])
        answers.update({text: None} if text else dict.fromkeys(_stage_answers(key, item[key])))
    return list(answers)


def _plain(value: object) -> str | None:
    """The answer in `{"results": [{"data": "cat"}]}`; None for any other form: a quick look."""
    results = value.get("results") if type(value) is dict else None
    if type(results) is list and len(results) == 1 and type(results[0]) is dict:
        data = results[0].get("data")
        if type(data) is str and data.isprintable():
            return data.strip()
    return None


def _stage(key: str) -> int:
    return 2 if key.endswith("-verify") else 1 if key.endswith("-check") else 0


def _stage_answers(key: str, value: object) -> Iterator[str]:
    results = value.get("results") if isinstance(value, dict) else value
    if results is None:
        return
    if not isinstance(results, list):
        raise Malformed(f"{quoted(key)} holds no list of results; export the manifest again")
    for result in results:
        if not isinstance(result, dict):
            raise Malformed(
                f"a result of {quoted(key)} is not an object; export the manifest again"
            )
        yield from _answers(result.get("data"))


def _answers(data: object) -> Iterator[str]:
    """The labels of one result: a text, an integer, a list of them, or `{"labels": ...}`."""
    values = [data]
    if isinstance(data, dict):
        labels = data.get("labels")
        if data and "labels" not in data:
            raise Malformed(
                "an answer is an object without 'labels'; only single choices can be read"
            )
        values = list(labels.values()) if isinstance(labels, dict) else [labels]
    for value in values:
        for answer in value if isinstance(value, list) else [value]:
            if answer is None:
                continue
            if isinstance(answer, float) and (not isfinite(answer) or answer.is_integer()):
                answer = str(answer)  # a missing value, or 17.0 for class 17
            if isinstance(answer, bool) or not isinstance(answer, str | int):
                raise Malformed(
                    "an answer is neither a text nor an integer; only single choices can be read"
                )
            text = str(answer).strip()
            if unusable(text):
                raise Malformed(f"label {quoted(text)} holds a control character; remove it")
            if text:
                yield text


def _one(answers: list[str]) -> str:
    if len(answers) > 1:
        listed = ", ".join(map(quoted, answers[:5])) + (", ..." if len(answers) > 5 else "")
        raise Malformed(
            f"{len(answers)} labels ({listed}), but an image has one class here; keep one of them"
        )
    return answers[0]
