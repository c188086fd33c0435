"""Images that a user hands over to be embedded: read, decoded and prepared ahead."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lookalike.data.batch import empty_images, made_ahead, ticket_of
from lookalike.data.decode import BadImage, ImageSource, decode, load_image
from lookalike.data.preprocess import Preprocess
from lookalike.data.record import Record
from lookalike.data.source import IMAGE_LIMITS, PLAIN, Tickets
from lookalike.errors import ModelError


def room_for(images: Sequence[ImageSource], dim: int) -> np.ndarray:
    """Room for the vectors of N images, (N, dim) float32, if it is a list of them.

    Raises:
        ModelError: it is one image.
    """
    if isinstance(images, (str, bytes, Path)) or not isinstance(images, Sequence):
        raise ModelError(
            f"embed takes a list of images, not one {type(images).__name__}; write embed([image])"
        )
    return np.empty((len(images), dim), dtype=np.float32)


def prepared(
    images: Sequence[ImageSource], preprocess: Preprocess, batch_size: int, threads: int
) -> Generator[tuple[range, Tensor], None, None]:
    """Batches of N images: which they are, and their pixels, (b, 3, S, S) uint8.

    To be closed: closing it ends what is read ahead.

    Raises:
        DataError: an image cannot be decoded; nothing is skipped silently.
        StorageError: or cannot be fetched.
    """
    count = len(images)
    return made_ahead(
        (range(at, min(at + batch_size, count)) for at in range(0, count, batch_size)),
        partial(_Job, preprocess, images),
        source=PLAIN,
        record_of=lambda row: _record(images[row]),
        threads=max(threads, 1),
    )


class _Job:
    """A batch of what a user handed over."""

    def __init__(
        self,
        preprocess: Preprocess,
        images: Sequence[ImageSource],
        rows: range,
        tickets: Tickets | None,
    ) -> None:
        self.size = len(rows)
        self.tickets = tickets
        self._preprocess = preprocess
        self._images = images
        self._rows = rows
        self._batch = empty_images(len(rows), preprocess.image_size, torch.device("cpu"))

    def run(self, piece: int) -> None:
        image, ticket = self._images[self._rows[piece]], ticket_of(self, piece)
        if ticket is None:
            pixels = load_image(image, limits=IMAGE_LIMITS)
        else:
            try:
                pixels = decode(ticket.take())
            except BadImage as error:
                raise BadImage(f"{ticket.record.place}: {error}") from error
        self._batch[piece].copy_(self._preprocess.prepare(pixels))

    def result(self) -> tuple[range, Tensor]:
        return self._rows, self._batch


def _record(image: ImageSource) -> Record | None:
    """What is read of a path or URI."""
    return Record(str(image), "", "", 0) if isinstance(image, (str, Path)) else None
