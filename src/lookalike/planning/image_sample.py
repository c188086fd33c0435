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

_SIDE = 32
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
        recall: Recall@1 of the queries, by their raw pixels at 32 x 32.
        mirrored_recall: the same where each query is mirrored.
        mirrors_differ: True if mirroring makes images of a class unlike, beyond chance.
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
    )


def mirror_recall(pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each image with another one of its class, whether the nearest other image is of it.

    The similarity is the cosine of pixels less their mean.

    Args:
        pixels: (n, H, W, 3) float32.
        labels: (n,) int64.

    Returns:
        (q,) bool for the images as they are, and (q,) bool for mirrored queries.
    """
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    asked = counts[inverse] > 1
    gallery = _unit(pixels)
    found = []
    for queries in (gallery, _unit(pixels[:, :, ::-1])):
        similarity = queries @ gallery.T  # (n, n)
        np.fill_diagonal(similarity, -np.inf)  # neither itself nor its own mirror image
        found.append(labels[similarity.argmax(axis=1)] == labels)
    return found[0][asked], found[1][asked]


def _unit(pixels: np.ndarray) -> np.ndarray:
    flat = pixels.reshape(len(pixels), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def _sample(class_ids: np.ndarray) -> np.ndarray:
    """Rows of the first images of evenly spaced classes, those with several images first."""
    order = np.argsort(class_ids, kind="stable")
    present, starts, counts = np.unique(class_ids[order], return_index=True, return_counts=True)
    several = np.flatnonzero(counts > 1)
    chosen = several if len(several) else np.arange(len(present))
    chosen = chosen[np.linspace(0, len(chosen) - 1, min(CLASSES, len(chosen))).astype(int)]
    parts = [order[starts[c] : starts[c] + min(A_CLASS, counts[c])] for c in chosen]
    return np.concatenate(parts)
