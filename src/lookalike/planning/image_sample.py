"""Facts about the images of a training list, from a sample of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from lookalike.data.catalog import Catalog
from lookalike.data.loading.bad_images import BadImages
from lookalike.data.loading.image_source import PLAIN, Source
from lookalike.data.loading.sequential import WholeImageLoader

CLASSES, A_CLASS = 128, 3
"""Sampled classes, and images of each: enough to tell 10 points of Recall@1 from chance.

Fewer classes have more images each, as many in all.
"""

_SIDE, _CELLS, _ORIENTATIONS = 32, 4, 8
_GROUP = 16
_SURE, _LESS = 3.0, 0.85
"""Standard errors beyond chance; mirror images differ where they keep less than this part too."""

_FEWEST = 30
"""Least queries that say something."""


@dataclass(frozen=True)
class SampleFacts:
    """Facts of a sample of images.

    Attributes:
        images: number of the images that could be read.
        side: median of their shorter sides, in pixels.
        queries: those with another image of their class in the sample.
        recall: Recall@1 of the queries, by spatial descriptors: gradients and colours by position.
        mirrored_recall: the same where each query is mirrored.
        mirrors_differ: True if mirroring makes images of a class unlike, beyond chance; False of
            fewer than 30 queries.
    """

    images: int
    side: int
    queries: int
    recall: float
    mirrored_recall: float
    mirrors_differ: bool


def sample_facts(catalog: Catalog, *, source: Source = PLAIN) -> SampleFacts | None:
    """Facts of images of up to `CLASSES` classes; None if none of the sample can be read."""
    rows = _sample(catalog.class_ids)
    records = [catalog.records[row] for row in rows.tolist()]
    loader = WholeImageLoader(records, batch_size=_GROUP, bad=BadImages(), source=source)
    sides: list[int] = []
    small: list[np.ndarray] = []
    read: list[int] = []
    for group in loader:
        for row, pixels in zip(group.rows.tolist(), group.images, strict=True):
            sides.append(min(pixels.shape[:2]))
            reduced = Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BOX)
            small.append(np.asarray(reduced, np.float32))
            read.append(row)
    if not read:
        return None
    pixels, labels = np.stack(small), catalog.class_ids[rows[read]]  # (n, 32, 32, 3)
    hits, mirrored = recalls(pixels, labels)
    return SampleFacts(
        images=len(read),
        side=int(np.median(sides)),
        queries=len(hits),
        recall=_mean(hits),
        mirrored_recall=_mean(mirrored),
        mirrors_differ=_is_above(hits, mirrored) and _mean(mirrored) < _LESS * _mean(hits),
    )


def _mean(hits: np.ndarray) -> float:
    return float(hits.mean()) if len(hits) else 0.0


def _is_above(hits: np.ndarray, others: np.ndarray) -> bool:
    """True if the same queries have more hits, beyond chance."""
    more = hits.astype(float) - others
    enough = len(more) >= _FEWEST
    return bool(enough and more.mean() > _SURE * more.std() / len(more) ** 0.5)


def recalls(pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each image with another one of its class, whether the nearest other image is of it.

    The similarity is the sum of two cosines, of gradients and of colours, each less its mean over
    the images.

    Args:
        pixels: (n, 32, 32, 3) float32, 0 to 255.
        labels: (n,) int64.

    Returns:
        (q,) bool, and the same for mirrored queries.
    """
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    asked = counts[inverse] > 1
    found = []
    for queries in (pixels, pixels[:, :, ::-1]):
        similarity = np.zeros((len(pixels), len(pixels)), np.float32)
        for describe in (_gradients, _colours):
            own = describe(pixels)
            mean = own.mean(axis=0)
            similarity += _unit(describe(queries) - mean) @ _unit(own - mean).T
        np.fill_diagonal(similarity, -np.inf)  # neither itself nor its own mirror image
        found.append((labels[similarity.argmax(axis=1)] == labels)[asked])
    return found[0], found[1]


def _gradients(pixels: np.ndarray) -> np.ndarray:
    """Square roots of histograms of 8 orientations in 4 x 4 cells, (n, 128), unit length.

    Dalal and Triggs, CVPR 2005; the root of Arandjelovic and Zisserman, CVPR 2012. Small shifts of
    an object change them little.
    """
    return _unit(np.sqrt(_orientations(pixels).reshape(len(pixels), -1)))


def _orientations(pixels: np.ndarray) -> np.ndarray:
    """Strength of gradients by cell and orientation, (n, 4, 4, 8), shared by the nearest two."""
    grey = pixels.mean(axis=3)
    down, right = np.gradient(grey, axis=(1, 2))
    strength = np.hypot(right, down)
    turn = np.arctan2(down, right) / (2 * np.pi) % 1 * _ORIENTATIONS  # in bins
    lower = turn.astype(int)
    upper_part = turn - lower
    size = _SIDE // _CELLS
    found = np.empty((len(pixels), _CELLS, _CELLS, _ORIENTATIONS), np.float32)
    for orientation in range(_ORIENTATIONS):
        part = np.where(lower % _ORIENTATIONS == orientation, 1 - upper_part, 0)
        part += np.where((lower + 1) % _ORIENTATIONS == orientation, upper_part, 0)
        cells = (strength * part).reshape(-1, _CELLS, size, _CELLS, size)
        found[..., orientation] = cells.sum(axis=(2, 4))
    return found


def _colours(pixels: np.ndarray) -> np.ndarray:
    """Pixels at 8 x 8, (n, 192), less the mean of each image, unit length."""
    flat = _reduced(pixels, 8).reshape(len(pixels), -1)
    return _unit(flat - flat.mean(axis=1, keepdims=True))


def _reduced(pixels: np.ndarray, side: int) -> np.ndarray:
    size = _SIDE // side
    found: np.ndarray = pixels.reshape(-1, side, size, side, size, 3).mean(axis=(2, 4))
    return found


def _unit(rows: np.ndarray) -> np.ndarray:
    found: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return found


def _sample(class_ids: np.ndarray) -> np.ndarray:
    """Rows of the first images of evenly spaced classes, those with several images first."""
    order = np.argsort(class_ids, kind="stable")
    present, starts, counts = np.unique(class_ids[order], return_index=True, return_counts=True)
    several = np.flatnonzero(counts > 1)
    chosen = several if len(several) else np.arange(len(present))
    chosen = chosen[np.linspace(0, len(chosen) - 1, min(CLASSES, len(chosen))).astype(int)]
    most = CLASSES * A_CLASS // len(chosen)
    parts = [order[starts[c] : starts[c] + min(most, counts[c])] for c in chosen]
    return np.concatenate(parts)
