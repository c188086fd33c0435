"""One image of a data set: where it is and what is said about it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from lookalike import storage


@dataclass(frozen=True, slots=True)
class Member:
    """An image inside of a larger file.

    Attributes:
        name: in that file.
        offset: of its first byte.
        size: in bytes.
    """

    name: str
    offset: int
    size: int


LEAST_SIDE = 3
"""Pixels; a box with a shorter side shows nothing."""


@dataclass(frozen=True, slots=True)
class Details:
    """What a table may say about an image, in Open Metric Learning's columns.

    Attributes:
        box: (left, top, right, bottom) of the upright picture, the last two exclusive: only this
            part of it is the image. None for all of it. Whole numbers of pixels, or shares of its
            width and height.
        split: "train", "validation", "test" or another name; None where nothing is said.
        is_query: whether it asks in retrieval; None where nothing is said.
        is_gallery: whether it is searched; None where nothing is said.
        sequence: images of one sequence are not matched with each other.
        category: a coarser class, for break-downs.
        camera: images of one class that one camera took are not matched with each other; those of
            other classes are, as in person re-identification.
        relative: whether `box` is in fractions of width and height.
    """

    box: tuple[float, float, float, float] | None = None
    split: str | None = None
    is_query: bool | None = None
    is_gallery: bool | None = None
    sequence: str | None = None
    category: str | None = None
    camera: str | None = None
    relative: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """One line of an annotation.

    Attributes:
        uri: where the image is (a local path or a URI).
        label: the label as written (integers in their shortest form: `007` is `7`).
        source: the annotation file that holds the line, or the folder.
        line: the line's number, from 1; 0 where the source has no lines.
        member: the part of the file that is the image; None for all of it.
        details: what a table says beside path and label; None where there is nothing.
    """

    uri: str
    label: str
    source: str
    line: int
    member: Member | None = None
    details: Details | None = None

    @property
    def place(self) -> str:
        """The image as messages name it, without secrets: its URI, and where it is in the file."""
        place = storage.public(self.uri)
        return f"{place}: {self.member.name}" if self.member else place

    @property
    def origin(self) -> str:
        """`train.txt:17`: the place that every error about this record names."""
        return f"{self.source}:{self.line}" if self.line else self.source


def image_keys() -> Callable[[Record], Hashable]:
    """A function that gives equal keys to records of one image, however its place is spelled.

    That is the place by `storage.canonicalizer`, the part of the file, and the box.
    """
    canonical = storage.canonicalizer()

    def key(record: Record) -> Hashable:
        place = canonical(record.uri)
        box = record.details.box if record.details else None
        return place if record.member is None and box is None else (place, record.member, box)

    return key
