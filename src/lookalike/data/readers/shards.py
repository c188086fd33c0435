"""WebDataset shards: tar files in which an image and its label have one name.

    shards/0000.tar:  000001.jpg 000001.cls 000002.png 000002.json ...

Images are read in place, by offset and size: nothing is unpacked, and any image can be read at
any time. So the shards must not be compressed; the images are.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Iterator
from math import isfinite

from lookalike import storage
from lookalike.data.readers.annotation import (
    IMAGE_SUFFIXES,
    BadRows,
    Malformed,
    label_in,
    quoted,
    unusable,
)
from lookalike.data.readers.reader_options import PLAIN, Reading
from lookalike.data.record import Member, Record
from lookalike.errors import DataError

# Names of a sample's label, the first that is there counts. `.txt` comes last: in some sets it is
# a caption beside a `.cls`.
_LABELS = ("cls", "label", "json", "txt")
_LABEL_SUFFIXES = tuple(f".{end}" for end in _LABELS)
_KEYS = ("label", "cls", "class")  # in a .json
_LARGEST_LABEL = 2**20  # bytes; more is no label
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def is_shards(uri: str) -> bool:
    """Whether `uri` is named like one or several tar files."""
    return storage.split_query(uri)[0].lower().endswith((".tar", ".tar.gz", ".tgz"))


def read(uri: str, how: Reading = PLAIN) -> list[Record]:
    """The records of tar files, in the order of the files and of their members.

    Files of one sample have the same path up to the first dot of the name, and lie one after the
    other, as WebDataset writes them. The label is the content of `.cls`, `.label` or `.txt`, or
    the value of "label", "cls" or "class" in `.json`.

    Args:
        uri: a tar file, or several with a range of numbers: `shards/{0000..0099}.tar`.
        how: what to look for.

    Raises:
        StorageError: a file cannot be read.
        DataError: bad samples (all reported together, the first ten in full), no samples, or a
            file that is no uncompressed tar file.
    """
    records: list[Record] = []
    bad = BadRows()
    labels: dict[str, str] = {}  # keeps one object a label
    for shard in expanded(uri):
        source = storage.public(shard)
        for key, files in _samples(shard):
            try:
                image = _image(files)
                bare = not how.labelled and not any(end in files for end in _LABELS)
                label = "" if bare else _label(files, how.labelled)
            except Malformed as error:
                bad.add(f"{source}: {key}", str(error))
            else:
                records.append(Record(shard, labels.setdefault(label, label), source, 0, image))
    how.settle(bad)
    if not records and not bad.found:
        raise DataError(
            f"{storage.public(uri)}: no samples; expected NAME.jpg and NAME.cls one after the other"
        )
    return records


def expanded(uri: str) -> list[str]:
    """The files that `uri` means: all of `{0000..0099}`, with the digits of the first number.

    Raises:
        DataError: the range is empty.
    """
    found = _RANGE.search(uri)
    if found is None:
        return [uri]
    first, last = found.groups()
    if int(last) < int(first):
        raise DataError(f"{storage.public(uri)}: the range {found[0]} is empty; turn it around")
    before, after = uri[: found.start()], uri[found.end() :]
    names = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
    return [shard for name in names for shard in expanded(before + name + after)]


_Files = dict[str, tuple[Member, bytes]]  # by the end of the name; contents of labels only


def _samples(shard: str) -> Iterator[tuple[str, _Files]]:
    """Path up to the first dot, and the files, of each sample of a shard."""
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
    """The files in a shard, in their order; with the content of what may be a label."""
    try:
        with (
            storage.opened(shard) as stream,
            tarfile.open(fileobj=stream, mode="r:") as archive,
        ):
            end = 0
            while (entry := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # it would keep all of them
                end = entry.offset_data + -(-entry.size // 512) * 512
                if not entry.isfile() or os.path.basename(entry.name).startswith("."):
                    continue
                content = b""
                if entry.name.lower().endswith(_LABEL_SUFFIXES):
                    file = archive.extractfile(entry)
                    assert file is not None  # it is a file
                    content = file.read(_LARGEST_LABEL + 1)
                yield Member(entry.name, entry.offset_data, entry.size), content
            stream.seek(end)
            if 0 < len(stream.read(512)) < 512:
                raise tarfile.ReadError("cut off in a header")
    except tarfile.TarError as error:
        raise DataError(
            f"{storage.public(shard)}: not an uncompressed tar file ({error}); unpack it with "
            "gunzip, or write it again"
        ) from None


def _image(files: _Files) -> Member:
    images = [member for end, (member, _) in files.items() if f".{end}".endswith(IMAGE_SUFFIXES)]
    if len(images) != 1:
        found = ", ".join(f".{end}" for end in files)
        raise Malformed(
            f"{len(images) or 'no'} images among {found}; write one image for each name"
        )
    if unusable(images[0].name):
        raise Malformed(f"{quoted(images[0].name)} holds a control character; rename it")
    return images[0]


def _label(files: _Files, labelled: bool) -> str:
    for end in _LABELS:
        if end in files:
            member, content = files[end]
            if len(content) > _LARGEST_LABEL:
                raise Malformed(f"{quoted(member.name)} is too large for a label; leave it out")
            try:
                text = content.decode("utf-8").strip()
            except UnicodeDecodeError:
                raise Malformed(f"{quoted(member.name)} is not UTF-8 text") from None
            label = _of_json(member.name, text) if end == "json" else text
            if not label or unusable(label) or "\n" in label:
                raise Malformed(f"label {quoted(label)} of {quoted(member.name)} is no label")
            try:
                return label_in(label, labelled)
            except Malformed as error:
                raise Malformed(f"{quoted(member.name)}: {error}") from None
    raise Malformed("no label; add " + " or ".join(f".{end}" for end in _LABELS))


def _of_json(name: str, text: str) -> str:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise Malformed(f"{quoted(name)} is not JSON") from None
    for key in _KEYS:
        value = values.get(key) if isinstance(values, dict) else None
        if isinstance(value, str | int) and not isinstance(value, bool):
            return str(value).strip()
        if isinstance(value, float) and (not isfinite(value) or value.is_integer()):
            return str(value)  # a missing value, or 17.0 for class 17
    raise Malformed(f"{quoted(name)} has no text or integer under " + " or ".join(_KEYS))
