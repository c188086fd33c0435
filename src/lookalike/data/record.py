"""One image of a data set: its place, label and details."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace

from lookalike import storage


@dataclass(frozen=True, slots=True)
class Member:
    """The place of an image inside of a larger file."""

    name: str
    offset: int  # bytes
    size: int  # bytes


LEAST_SIDE = 3
"""The shortest side of a box, in pixels."""


@dataclass(frozen=True, slots=True)
class Details:
    """The columns of Open Metric Learning for an image; None where it is not given.

    Attributes:
        box: (left, top, right, bottom) of the upright picture, the last two exclusive: only this
            part of it is the image. Whole pixels, or fractions of its width and height.
        split: "train", "validation", "test" or another name.
        is_query: whether it is a query in retrieval.
        is_gallery: whether it is searched.
        sequence: images of one sequence are not matched with each other.
        category: a coarser class, for break-downs.
        camera: images of one class and one camera are not matched with each other; those of other
            classes are, as in person re-identification.
        relative: whether `box` is in fractions.
        weight: of the image in the loss, 0 or more. Not in `repr`, which identifies lists.
        further_labels: other labels of the image than `Record.label`, all different. Not in `repr`.
        coarser: classes of the image at coarser levels, the finest first. Not in `repr`.
    """

    box: tuple[float, float, float, float] | None = None
    split: str | None = None
    is_query: bool | None = None
    is_gallery: bool | None = None
    sequence: str | None = None
    category: str | None = None
    camera: str | None = None
    relative: bool = False
    weight: float | None = field(default=None, repr=False)
    further_labels: tuple[str, ...] = field(default=(), repr=False)
    coarser: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Record:
    """One row of an annotation.

    Attributes:
        uri: a local path or a URI.
        label: as written (integers in their shortest form: `007` is `7`), the first where there are
            several; "" where it is unknown.
        source: the annotation file or folder, without secrets.
        line: from 1; 0 where the source has no lines.
        member: the part of the file that is the image; None for all of it.
        details: the other columns of a table.
    """

    uri: str
    label: str
    source: str
    line: int
    member: Member | None = None
    details: Details | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels of the image, `label` first."""
        return (self.label, *self.details.further_labels) if self.details else (self.label,)

    @property
    def byte_range(self) -> tuple[int, int] | None:
        """Offset and size of the image in its file; None for all of it."""
        return None if self.member is None else (self.member.offset, self.member.size)

    @property
    def place(self) -> str:
        """The image as messages name it, without secrets."""
        place = storage.public(self.uri)
        return f"{place}: {self.member.name}" if self.member else place

    @property
    def origin(self) -> str:
        """`train.txt:17`, as errors name the record."""
        return f"{self.source}:{self.line}" if self.line else self.source


def with_labels(details: Details | None, labels: Sequence[str]) -> Details | None:
    """The details of an image with these labels; the first one is that of the record."""
    if len(labels) < 2:
        return details
    return replace(details or Details(), further_labels=tuple(labels[1:]))


def image_keys() -> Callable[[Record], Hashable]:
    """A function that gives equal keys to records of one image, however its place is spelled."""
    canonical = storage.canonicalizer()

    def key(record: Record) -> Hashable:
        place = canonical(record.uri)
        box = record.details.box if record.details else None
        return place if record.member is None and box is None else (place, record.member, box)

    return key
