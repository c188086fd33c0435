"""Embedding of images from a caller: one or several, of any kind, prepared ahead and checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lookalike import storage
from lookalike.data.decoding.decode import BadImage, ImageSource, decode_given, load_image
from lookalike.data.decoding.image_arrays import pixels_of, split_batch
from lookalike.data.loading.batch import empty_images
from lookalike.data.loading.image_source import IMAGE_LIMITS, Source
from lookalike.data.loading.pipeline import Job, Work, pipeline
from lookalike.data.loading.preprocess import Preprocess
from lookalike.data.loading.read_ahead import PendingBytes
from lookalike.data.record import Record
from lookalike.errors import DataError, ModelError, NotFiniteError, check_integer

OneImage = ImageSource | np.ndarray | bytearray | memoryview | Tensor | IO[bytes]
"""A path or URI, encoded bytes or an open file of them, a PIL image, an array or a tensor."""

Images = OneImage | Iterable[OneImage]
"""One image, several in any sequence or iterator, or a batch in an array or a tensor."""

_UserImage = str | bytes | np.ndarray | Image.Image | Tensor | os.PathLike[str]
_SINGLE = (str, bytes, bytearray, memoryview, os.PathLike, Image.Image)


def embedded(
    images: Images,
    dim: int,
    batch_size: int,
    threads: int,
    some: Callable[[Sequence[_UserImage]], Iterable[np.ndarray]],
) -> np.ndarray:
    """The vectors of one image, (D,), or of N, (N, D) float32.

    `some` gives vectors (b, D) of some images, batch by batch. An iterator is read as it is
    embedded, `batch_size` at a time. `threads` is 0 for the caller's.

    Raises:
        DataError: an image, or the whole, is something else.
        ModelError: `batch_size` or `threads` is no such number.
        NotFiniteError: the model gives NaN or infinity for some.
    """
    check_integer("batch_size", batch_size, 1, ModelError)
    check_integer("threads", threads, 0, ModelError)
    each, single = several(images)
    nothing = np.zeros((0, dim), np.float32)
    found, count = [nothing], 0
    for chunk in [each] if isinstance(each, list) else _chunks(each, batch_size):
        part = np.concatenate([nothing, *some(chunk)])
        if part.shape != (len(chunk), dim):
            raise ModelError(f"{len(chunk)} images gave vectors of shape {part.shape}")
        require_finite(part, partial(_name, chunk, count))
        found.append(part)
        count += len(chunk)
    vectors = np.concatenate(found)
    return vectors[0] if single else vectors


def several(images: Any) -> tuple[list[_UserImage] | Iterator[_UserImage], bool]:
    """The images one by one, and True for a single one.

    Raises:
        DataError: they are no images, or have no order.
    """
    if isinstance(images, np.ndarray) and images.dtype.kind in "OUS":
        images = images.tolist()
    if isinstance(images, (np.ndarray, Tensor)):
        batch = split_batch(images)
        return ([images], True) if batch is None else (list(batch), False)
    if isinstance(images, _SINGLE) or _is_file(images):
        return [_one(images)], True
    if isinstance(images, (Mapping, AbstractSet)):
        raise DataError(f"a {type(images).__name__} of images has no order; give a list")
    if not isinstance(images, Iterable):
        raise DataError(
            f"embed takes images, not {type(images).__name__}: a path, a URI, encoded bytes, an "
            "open file, a PIL image, an array or a tensor, or several of them"
        )
    each = map(_one, images)
    return (list(each), False) if isinstance(images, Sequence) else (each, False)


def pixels_from(image: _UserImage) -> np.ndarray:
    """One image as (H, W, 3) uint8 RGB.

    Raises:
        DataError: it is none.
        StorageError: it cannot be read.
    """
    if isinstance(image, (np.ndarray, Tensor)):
        return pixels_of(image)
    return load_image(image, limits=IMAGE_LIMITS)


def prepared(
    images: Sequence[_UserImage], preprocess: Preprocess, batch_size: int, threads: int
) -> Generator[tuple[range, Tensor], None, None]:
    """Batches of N images: their range, and their pixels, (b, 3, S, S) uint8.

    To be closed: that ends the reading ahead.

    Raises:
        DataError: an image cannot be decoded; nothing is skipped silently.
        StorageError: or cannot be fetched.
    """

    def start(rows: range) -> Work[tuple[range, Tensor]]:
        batch = empty_images(len(rows), preprocess.image_size, torch.device("cpu"))

        def run(piece: int, pending: PendingBytes | None) -> None:
            if pending is None:
                pixels = pixels_from(images[rows[piece]])
            else:
                try:
                    pixels = decode_given(pending.take())
                except BadImage as error:
                    raise BadImage(f"{pending.record.place}: {error}") from error
            batch[piece].copy_(preprocess.prepare(pixels))

        return run, lambda: (rows, batch)

    count = len(images)
    jobs = (
        Job([_record(images[row]) for row in rows], partial(start, rows))
        for at in range(0, count, batch_size)
        for rows in [range(at, min(at + batch_size, count))]
    )
    return pipeline(jobs, source=Source(threads=max(threads, 1), limits=IMAGE_LIMITS))


def _record(image: _UserImage) -> Record | None:
    """The record of a path or URI, whose bytes are read ahead."""
    return Record(os.fspath(image), "", "", 0) if isinstance(image, (str, os.PathLike)) else None


def _one(image: Any) -> _UserImage:
    """An image of several; an open file is read now, from its beginning where that is possible."""
    if _is_file(image):
        if getattr(image, "closed", False):
            raise DataError("an open file of an image is closed already; open it again")
        if getattr(image, "seekable", bool)():
            image.seek(0)
        content = image.read()
        if not isinstance(content, bytes):
            raise DataError(
                f"an open file of an image must be binary, this one gives "
                f"{type(content).__name__}: open it with mode 'rb'"
            )
        return content
    if isinstance(image, (bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, str) and not image:
        raise DataError("an image is an empty text; give a path or a URI")
    if not isinstance(image, (*_SINGLE, np.ndarray, Tensor)):
        raise DataError(
            f"an image is a path, a URI, bytes, an open file, a PIL image, an array or a tensor; "
            f"this one is {type(image).__name__}"
        )
    return image  # type: ignore[return-value]


def _is_file(image: object) -> bool:
    return callable(getattr(image, "read", None)) and not isinstance(image, os.PathLike)


def _chunks(images: Iterator[_UserImage], size: int) -> Iterator[list[_UserImage]]:
    while chunk := list(islice(images, size)):
        yield chunk


_SHOWN = 5  # images in the message of a NotFiniteError


def require_finite(vectors: np.ndarray, name: Callable[[int], str]) -> None:
    """Check a model's vectors (N, D) before they are used; `name` gives the image of a row.

    Raises:
        NotFiniteError: some are not finite; names the first images.
    """
    # A sum is not finite where a number is not; only then are the numbers looked at.
    with np.errstate(invalid="ignore"):  # the sum of both infinities
        total = vectors.sum(dtype=np.float64)
    if np.isfinite(total):
        return
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if not len(broken):
        return
    names = ", ".join(name(int(row)) for row in broken[:_SHOWN])
    more = ", ..." if len(broken) > _SHOWN else ""
    raise NotFiniteError(
        f"the model gives vectors that are not finite (NaN or infinity) for {len(broken)} of "
        f"{len(vectors)} images ({names}{more}): its weights are damaged, or its numbers overflow; "
        "use an earlier checkpoint, or train again with a lower optim.lr or train.precision=fp32"
    )


def _name(images: Sequence[_UserImage], before: int, row: int) -> str:
    image = images[row]
    if isinstance(image, (str, Path)):
        return storage.public(str(image))
    return f"image {before + row}"


class _Embeds(Protocol):
    device: Any

    def embed(self, images: Images, *, batch_size: int = ..., threads: int = ...) -> np.ndarray: ...


def encode(
    model: _Embeds,
    images: Images,
    batch_size: int = 64,
    *,
    show_progress_bar: bool | None = None,
    convert_to_numpy: bool = True,
    convert_to_tensor: bool = False,
    device: str | torch.device | None = None,
    normalize_embeddings: bool = True,
    threads: int = 4,
) -> np.ndarray | Tensor:
    """`embed` under the name and with the keywords of other libraries.

    Args:
        model: an embedder, or an exported model, whose method this is.
        images: as `embed` takes them.
        batch_size: images at a time.
        show_progress_bar: accepted for compatibility; `embed` shows none.
        convert_to_numpy: give an array rather than a tensor.
        convert_to_tensor: give a float32 tensor on the CPU.
        device: that of the model; another one is refused.
        normalize_embeddings: True; vectors are always of unit length.
        threads: threads that read and decode.

    Returns:
        (N, D) float32, of one image (D,).

    Raises:
        ModelError: raw vectors, or another device, are asked for.
        LookalikeError: as `embed`.
    """
    if not normalize_embeddings:
        raise ModelError(
            "normalize_embeddings=False: vectors are of unit length; raw embeddings are what "
            "calling the embedder with preprocessed images (B, 3, S, S) gives"
        )
    if device is not None and torch.device(device).type != torch.device(model.device).type:
        raise ModelError(
            f"device={str(device)!r}: the model is on {model.device}; choose the device in "
            "lookalike.load(..., device=)"
        )
    del show_progress_bar
    vectors = model.embed(images, batch_size=batch_size, threads=threads)
    return torch.from_numpy(vectors) if convert_to_tensor or not convert_to_numpy else vectors
