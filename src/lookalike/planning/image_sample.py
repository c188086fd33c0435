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
"""Sampled classes, and images of each: enough to tell 10 points of Recall@1 from chance."""

_SIDE, _CELLS, _ORIENTATIONS, _PATCHES = 32, 4, 8, 8
_GROUP = 16
_SURE, _LESS = 3.0, 0.85
"""Mirror images differ where they lose this many standard errors and keep less than this part."""


@dataclass(frozen=True)
class SampleFacts:
    """Facts of a sample of images.

    Attributes:
        images: number of the images that could be read.
        side: median of their shorter sides, in pixels.
        queries: those with another image of their class in the sample.
        recall: Recall@1 of the queries, by gradients and colours of their places at 32 x 32.
        mirrored_recall: the same where each query is mirrored.
        chance: Recall@1 of a random order.
        mirrors_differ: True if mirroring makes images of a class unlike, beyond chance.
    """

    images: int
    side: int
    queries: int
    recall: float
    mirrored_recall: float
    mirrors_differ: bool
    chance: float = 0.0

    @property
    def alike(self) -> float:
        """The part of the queries whose recall is not by chance; 0 where that part may be chance.

        It is large where objects lie alike in their images.
        """
        if not self.queries or self.chance == 1:
            return 0.0
        error = (self.chance * (1 - self.chance) / self.queries) ** 0.5
        beyond = self.recall - self.chance
        return beyond / (1 - self.chance) if beyond > _SURE * error else 0.0


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
    pixels = np.stack(small)  # (n, 32, 32, 3)
    hits, mirrored = mirror_recall(pixels, catalog.class_ids[rows[read]])
    lost = hits.astype(float) - mirrored
    error = lost.std() / max(len(lost), 1) ** 0.5 if len(lost) else 0.0
    mean = float(lost.mean()) if len(lost) else 0.0
    return SampleFacts(
        images=len(read),
        side=int(np.median(sides)),
        queries=len(hits),
        recall=float(hits.mean()) if len(hits) else 0.0,
        mirrored_recall=float(mirrored.mean()) if len(hits) else 0.0,
        mirrors_differ=bool(mean > _SURE * error and mirrored.mean() < _LESS * hits.mean()),
        chance=chance_of(catalog.class_ids[rows[read]]),
    )


def chance_of(labels: np.ndarray) -> float:
    """Recall@1 of a random order, of the images with another one of their class."""
    _, counts = np.unique(labels, return_counts=True)
    counts = counts[counts > 1]
    return float((counts * (counts - 1)).sum() / (counts.sum() * (len(labels) - 1) or 1))


def mirror_recall(pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each image with another one of its class, whether the nearest other image is of it.

    The similarity is the sum of two cosines, of gradients and of colours, each less its mean over
    the images.

    Args:
        pixels: (n, 32, 32, 3) float32.
        labels: (n,) int64.

    Returns:
        (q,) bool for the images as they are, and (q,) bool for mirrored queries.
    """
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    asked = counts[inverse] > 1
    plain, mirrored = np.zeros((2, len(pixels), len(pixels)), np.float32)
    for describe in (_gradients, _colours):
        own = describe(pixels)
        mean = own.mean(axis=0)
        gallery = _unit(own - mean)
        plain += gallery @ gallery.T
        mirrored += _unit(describe(pixels[:, :, ::-1]) - mean) @ gallery.T
    found = []
    for similarity in (plain, mirrored):
        np.fill_diagonal(similarity, -np.inf)  # neither itself nor its own mirror image
        found.append(labels[similarity.argmax(axis=1)] == labels)
    return found[0][asked], found[1][asked]


def _gradients(pixels: np.ndarray) -> np.ndarray:
    """Histograms of 8 orientations in 4 x 4 cells, (n, 128), square roots, unit length.

    Dalal and Triggs, CVPR 2005; the root of Arandjelovic and Zisserman, CVPR 2012. Small shifts of
    an object change them little.
    """
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
    return _unit(np.sqrt(found.reshape(len(pixels), -1)))


def _colours(pixels: np.ndarray) -> np.ndarray:
    """Pixels at 8 x 8, (n, 192), less the mean of each image, unit length."""
    size = _SIDE // _PATCHES
    patches = pixels.reshape(-1, _PATCHES, size, _PATCHES, size, 3).mean(axis=(2, 4))
    flat = patches.reshape(len(pixels), -1)
    return _unit(flat - flat.mean(axis=1, keepdims=True))


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
    parts = [order[starts[c] : starts[c] + min(A_CLASS, counts[c])] for c in chosen]
    return np.concatenate(parts)
