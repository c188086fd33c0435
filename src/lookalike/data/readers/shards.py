"""WebDataset shards: tar files in which an image and its label have one name.

    shards/0000.tar:  000001.jpg 000001.cls 000002.png 000002.json ...

Images are read in place, by offset and size, at any time and without unpacking. So the shards
must not be compressed; the images are.
"""

from __future__ import annotations

import json
import logging
import os
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from math import isfinite

from lookalike import storage
from lookalike.data.decoding.image_formats import ENOUGH, IMAGE_SUFFIXES, format_of
from lookalike.data.readers.annotation import (
    Annotation,
    AnnotationOptions,
    BadRows,
    MalformedRow,
    MissingLabel,
    has_control_characters,
    name_fault,
    parse_labels,
    quoted,
)
from lookalike.data.readers.path_patterns import expand_ranges
from lookalike.data.readers.table_rows import labels_text
from lookalike.data.record import Member, Record, with_labels
from lookalike.data.record_table import RecordTable
from lookalike.errors import DataError
from lookalike.log import counted

_log = logging.getLogger(__name__)

# By priority. `.txt` comes last: in some sets it is a caption beside a `.cls`.
_LABELS = ("cls", "label", "json", "txt")
_LABEL_SUFFIXES = tuple(f".{end}" for end in _LABELS)
_KEYS = ("label", "cls", "class")  # in a .json
_LARGEST_LABEL = 2**20  # bytes

_Files = dict[str, tuple[Member, bytes]]  # by the end of the name; contents of labels only


def is_shards(uri: str) -> bool:
    """True for the name of one or several tar files."""
    return storage.split_query(uri)[0].lower().endswith((".tar", ".tar.gz", ".tgz"))


def read(annotation: Annotation) -> RecordTable:
    """The records of tar files (`shards/{0000..0099}.tar`), in the order of their members.

    Files of one sample have the same path up to the first dot of the name, and lie one after the
    other, as WebDataset writes them. The label is the content of `.cls`, `.label` or `.txt`, or
    the value of "label", "cls" or "class" in `.json`.

    Raises:
        StorageError: a file cannot be read.
        DataError: bad samples, no samples, or a file that is no uncompressed tar file.
    """
    options = annotation.options
    records = RecordTable()
    bad = BadRows()
    for shard in expand_ranges(annotation.uri):
        source = storage.public(shard)
        for key, files in _samples(shard):
            try:
                image = _image(files)
                bare = not options.labelled and not any(end in files for end in _LABELS)
                found = ("",) if bare else _labels(files, options)
            except MalformedRow as error:
                bad.add(f"{source}: {key}", error)
            else:
                details = with_labels(None, found)
                records.append(Record(shard, found[0], source, 0, image, details))
    return annotation.finish(
        records, bad, "no samples; expected NAME.jpg and NAME.cls one after the other"
    )


def _samples(shard: str) -> Iterator[tuple[str, _Files]]:
    """Path up to the first dot, and the files, of each sample."""
    current, files = None, _Files()
    for member, content in _members(shard):
        folder, name = os.path.split(member.name)
        stem, _, end = name.partition(".")
        key = f"{folder}/{stem}" if folder else stem
        if key != current and current is not None:
            yield current, files
            files = _Files()
        current = key
        files[end.lower()] = member, content
    if current is not None:
        yield current, files


def _members(shard: str) -> Iterator[tuple[Member, bytes]]:
    """The files in a shard, in their order, with the content of possible labels."""
    try:
        with (
            storage.opened(shard) as stream,
            tarfile.open(fileobj=stream, mode="r:") as archive,
        ):
            end, skipped = 0, 0
            found: dict[str, tuple[Member, bytes]] = {}  # for hard links, which name an earlier one
            while (entry := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # it would keep all of them
                length = 0 if entry.islnk() else -(-entry.size // 512) * 512
                end = entry.offset_data + length
                if entry.isdir() or os.path.basename(entry.name).startswith("."):
                    continue
                if entry.islnk() and entry.linkname in found:
                    member, content = found[entry.linkname]
                    yield replace(member, name=entry.name), content
                    continue
                if not entry.isfile():
                    skipped += 1
                    continue
                content = b""
                if entry.name.lower().endswith(_LABEL_SUFFIXES):
                    file = archive.extractfile(entry)
                    assert file is not None  # it is a file
                    content = file.read(_LARGEST_LABEL + 1)
                found[entry.name] = Member(entry.name, entry.offset_data, entry.size), content
                yield found[entry.name]
            if skipped:
                _log.warning(
                    "%s: left out: %s", storage.public(shard),
                    counted(skipped, "member that is no file", "members that are no files"),
                )  # fmt: skip
            stream.seek(end)
            if 0 < len(stream.read(512)) < 512:
                raise tarfile.ReadError("cut off in a header")
    except tarfile.TarError as error:
        kind = format_of(storage.read_starts([shard], ENOUGH)[0])
        if kind in ("Parquet", "Arrow", "ZIP"):
            change = f"call it .{kind.lower()}" if is_shards(shard) else "leave data.format out"
            fix = f"it holds {kind} data: {change}"
        else:
            fix = "unpack it with gunzip, or write it again"
        raise DataError(
            f"{storage.public(shard)}: not an uncompressed tar file ({error}); {fix}"
        ) from None


def _image(files: _Files) -> Member:
    images = [member for end, (member, _) in files.items() if f".{end}".endswith(IMAGE_SUFFIXES)]
    if len(images) != 1:
        found = ", ".join(f".{end}" for end in files)
        raise MalformedRow(
            f"{len(images) or 'no'} images among {found}; write one image for each name"
        )
    if has_control_characters(images[0].name):
        raise MalformedRow(f"{quoted(images[0].name)} {name_fault(images[0].name)}")
    return images[0]


def _labels(files: _Files, options: AnnotationOptions) -> tuple[str, ...]:
    end = next((end for end in _LABELS if end in files), None)
    if end is None:
        raise MissingLabel("no label; add " + " or ".join(_LABEL_SUFFIXES))
    member, content = files[end]
    name = quoted(member.name)
    if len(content) > _LARGEST_LABEL:
        raise MalformedRow(f"{name} is too large for a label; leave it out")
    try:
        text = content.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise MalformedRow(f"{name} is not UTF-8 text") from None
    label = _label_of_json(name, text, options.list_separator) if end == "json" else text
    if has_control_characters(label) or "\n" in label:
        raise MalformedRow(f"label {quoted(label)} of {name} is not one line of text")
    try:
        return parse_labels(label, options)
    except MalformedRow as error:
        raise type(error)(f"{name}: {error}") from None


def _label_of_json(name: str, text: str, separator: str | None) -> str:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise MalformedRow(f"{name} is not JSON") from None
    for key in _KEYS:
        value = values.get(key) if isinstance(values, dict) else None
        if isinstance(value, list):
            return labels_text(value, separator)
        if isinstance(value, str | int) and not isinstance(value, bool):
            return str(value).strip()
        if isinstance(value, float) and (not isfinite(value) or value.is_integer()):
            return str(value)  # a missing value, or 17.0 for class 17
    given = [values[key] for key in _KEYS if key in values] if isinstance(values, dict) else []
    if given and all(value is None for value in given):
        return ""
    raise MalformedRow(f"{name} has no text or integer under " + " or ".join(_KEYS))
