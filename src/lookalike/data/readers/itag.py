"""The manifest of PAI's iTAG, as the component's ClsSourceItag reads it: one JSON object a line.

    {"data": {"source": "oss://bucket.oss-cn-hangzhou.aliyuncs.com/a.jpg"},
     "label-143": {"results": [{"data": "cat"}]}, "label-143-verify": {...}}

An answer is text, or an object `{"labels": {"<the question>": "cat"}}`. Policies:

- Stages: `...-verify` counts over `...-check` over the first answer. The highest stage that is
  there decides, even if it is empty: a checker has rejected the answer.
- Items without an answer (skipped, or not annotated yet) are skipped, counted and logged.
- Items with several different labels are bad lines, unless `label_separator` is set, which
  means that images may have several.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from math import isfinite

from lookalike.data.readers.annotation import (
    Annotation,
    AnnotationOptions,
    BadRows,
    MalformedRow,
    has_control_characters,
    is_invalid_uri,
    lines,
    parse_label,
    parse_labels,
    quoted,
)
from lookalike.data.readers.json_objects import json_object
from lookalike.data.record import Record, with_labels
from lookalike.data.record_table import RecordTable
from lookalike.log import counted

_log = logging.getLogger(__name__)


def read(annotation: Annotation) -> RecordTable:
    """The records of an iTAG manifest.

    Raises:
        StorageError: the manifest cannot be read.
        DataError: bad lines, or no records.
    """
    source, options = annotation.name, annotation.options
    resolve = annotation.resolver()
    records = RecordTable()
    bad = BadRows()
    skipped = 0
    for number, line in enumerate(lines(annotation.text), 1):
        line = line.strip()
        if not line:
            continue
        try:
            item = json_object(line)
            answers = _answers_of(item)
            if not answers and options.labelled:
                skipped += 1
                continue
            found = _labels(answers, options)
            place = resolve(_image(item))
        except MalformedRow as error:
            bad.add(f"{source}:{number}", error)
        else:
            details = with_labels(None, found)
            records.append(Record(place, found[0], source, number, None, details))
    annotation.finish(
        records,
        bad,
        f"the manifest holds no labelled image ({counted(skipped, 'item')} without an answer)",
    )
    if skipped:
        total = skipped + len(records)
        _log.warning("%s: %d of %d items skipped: no answer", source, skipped, total)
    return records


def _image(item: dict[str, object]) -> str:
    """`data.source`; a custom template may call its only field otherwise."""
    data = item.get("data")
    source = data.get("source") if isinstance(data, dict) else None
    if source is None and isinstance(data, dict) and len(data) == 1:
        source = next(iter(data.values()))
    if not isinstance(source, str) or not source.strip():
        raise MalformedRow("data.source is missing; it must be the image's path or URI")
    if has_control_characters(source):
        raise MalformedRow(f"data.source {quoted(source)} holds a control character; remove it")
    if ":" in source and is_invalid_uri(source.strip()):
        raise MalformedRow(f"data.source {quoted(source)} is not a valid URI; correct it")
    return source.strip()


def _answers_of(item: dict[str, object]) -> list[str]:
    """The different answers of the highest stage, in order."""
    keys = [key for key, value in item.items() if "label" in key and value]
    if len(keys) > 1:
        highest = max(map(_stage, keys))
        keys = [key for key in keys if _stage(key) == highest]
    answers: dict[str, None] = {}
    for key in keys:
        text = _single_text(item[key])
        answers.update({text: None} if text else dict.fromkeys(_stage_answers(key, item[key])))
    return list(answers)


def _single_text(value: object) -> str | None:
    """The answer in `{"results": [{"data": "cat"}]}`: a fast path."""
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
        raise MalformedRow(f"{quoted(key)} holds no list of results; export the manifest again")
    for result in results:
        if not isinstance(result, dict):
            raise MalformedRow(
                f"a result of {quoted(key)} is not an object; export the manifest again"
            )
        yield from _answers(result.get("data"))


def _answers(data: object) -> Iterator[str]:
    """The labels of one result: a text, an integer, a list of them, or `{"labels": ...}`."""
    values = [data]
    if isinstance(data, dict):
        labels = data.get("labels")
        if data and "labels" not in data:
            raise MalformedRow(
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
                raise MalformedRow(
                    "an answer is neither a text nor an integer; only single choices can be read"
                )
            text = str(answer).strip()
            if has_control_characters(text):
                raise MalformedRow(f"label {quoted(text)} holds a control character; remove it")
            if text:
                yield text


def _labels(answers: list[str], options: AnnotationOptions) -> tuple[str, ...]:
    """The different labels of an item, in their order."""
    if options.label_separator is not None:
        found = [label for answer in answers or [""] for label in parse_labels(answer, options)]
        return tuple(dict.fromkeys(found))
    if len(answers) > 1 and options.joiner is not None:
        return (options.joiner.join(parse_label(one, options.labelled) for one in answers),)
    if len(answers) > 1:
        listed = ", ".join(map(quoted, answers[:5])) + (", ..." if len(answers) > 5 else "")
        raise MalformedRow(
            f"{len(answers)} labels ({listed}), but an image has one class; keep one of them, or "
            "set data.label_separator='|' (evaluate: --label-separator '|') to take all"
        )
    return (parse_label(answers[0] if answers else "", options.labelled),)
