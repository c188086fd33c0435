"""Bytes and seconds that a long list needs of a machine and of each worker."""

from __future__ import annotations

from lookalike.log import duration
from lookalike.storage.byte_size import in_words

FILE_BYTES = 88
"""Bytes of an image in the file that the workers of a machine map, with a path of 60 characters."""

TEXT_BYTES = 140
"""Bytes of an image in the worker that reads a list of text, as it is decoded: twice a line."""

ROW_BYTES = 28
"""Bytes of an image in every worker: its class, and the order of an epoch as it is drawn."""

NAME_BYTES = 150
"""Bytes of a class in every worker: its name, of 14 characters (measured with 100,000)."""

SECONDS = 2.4e-6
"""Seconds of a core to read a line of a list (measured with ten million)."""


def list_needs(images: int, classes: int) -> str:
    """The bytes and seconds that a list takes, in words."""
    own = in_words(images * ROW_BYTES + classes * NAME_BYTES)
    return (
        f"The list of {images:,} images is a file of about {in_words(images * FILE_BYTES)} in the "
        "cache of each machine, which its workers map. Besides the above, the process of a worker "
        f"takes {own} of host memory for it: the classes of images, the order of an epoch and the "
        f"names of classes. One worker of a machine reads it in {duration(images * SECONDS)}, with "
        f"its text in memory at that time, {in_words(images * TEXT_BYTES)} at most."
    )
