"""Files that a list was read from: its images, and the list or table itself."""

from __future__ import annotations

from collections.abc import Iterable

from lookalike import storage
from lookalike.data.record import Record
from lookalike.storage import Place
from lookalike.storage.output_checks import replaced_input


def check_not_read(outputs: Iterable[Place], records: Iterable[Record]) -> None:
    """Refuse to write a file over one that records come from, in a folder or by a pattern.

    `check_distinct` sees only the places that the user named, and that before anything is read.

    Raises:
        ConfigError: an output is one.
    """
    place_of = storage.canonicalizer()
    there = {
        place_of(output): output
        for output in map(str, outputs)
        if storage.is_remote(output) or storage.path_of(output).is_file()
    }
    if not there:
        return
    sources = set()
    for record in records:
        sources.add(record.source)
        if (place := place_of(record.uri)) in there:
            raise replaced_input(there[place])
    for place in map(place_of, sources):
        if place in there:
            raise replaced_input(there[place])
