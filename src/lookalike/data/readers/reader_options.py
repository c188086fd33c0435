"""How annotations are read: what a request says about all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from lookalike import storage
from lookalike.data.readers.annotation import BadRows, Malformed
from lookalike.data.readers.skipped_files import Skipped
from lookalike.errors import StorageError


@dataclass(frozen=True)
class Reading:
    """What to look for in an annotation, and what to do with bad rows.

    Attributes:
        labelled: an image without a label is a mistake; else its label is "".
        path_column: the column of a table that names the images; None to find it.
        label_column: the column of a table that holds the labels; None to find it.
        image_root: the folder or URI where relative paths start; None for the annotation's folder.
        bad: gathers the complaints about bad rows, which are then left out; None to raise a
            DataError about them.
        skipped: takes what is skipped of image folders, by kind.
    """

    labelled: bool = True
    path_column: str | None = None
    label_column: str | None = None
    image_root: str | None = None
    bad: BadRows | None = field(default=None, compare=False)
    skipped: list[Skipped] | None = field(default=None, compare=False)

    def resolver(self, uri: str) -> Callable[[str], str]:
        """The `storage.resolver` of the annotation at `uri`; it raises `Malformed`."""
        resolve = storage.resolver(
            uri if self.image_root is None else storage.join(self.image_root, "list")
        )

        def place(path: str) -> str:
            try:
                return resolve(path)
            except StorageError as error:  # it leads out of the bucket
                raise Malformed(str(error)) from None

        return place

    def settle(self, bad: BadRows) -> None:
        """Hand the complaints of one annotation on, or raise a DataError about them."""
        if self.bad is None:
            bad.raise_any()
        else:
            self.bad.found += bad.found


PLAIN = Reading()
"""Labelled, with columns by name, and every complaint an error."""

UNLABELLED = Reading(labelled=False)
"""The same, where images without a label are welcome."""
