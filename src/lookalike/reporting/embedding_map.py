"""Embeddings in the plane, by t-SNE of a sample of the images."""

from __future__ import annotations

import numpy as np

MOST_POINTS = 1_500
"""Images of the map."""

_OF_A_CLASS = 12


def sample_points(labels: np.ndarray, seed: int, most: int = MOST_POINTS) -> np.ndarray:
    """Ascending indices of all images, or of `most` from randomly drawn classes.

    Classes are drawn, not single images: the map shows whether images of a class lie together.
    `labels` are the (M,) class of each image.
    """
    if len(labels) <= most:
        return np.arange(len(labels))
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    # Classes in the order of their first image in the permutation: large ones tend to come first.
    _, first, classes = np.unique(labels[order], return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))[classes]  # of the class of each image in `order`
    by_rank = np.argsort(rank, kind="stable")
    sizes = np.bincount(rank)
    place = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[by_rank][place < _OF_A_CLASS][:most])


def project(vectors: np.ndarray, seed: int) -> np.ndarray | None:
    """(n, D) unit vectors to (n, 2) positions within 0 to 1.

    None where there are too few images or all are the same.
    """
    if len(vectors) < 5 or float(np.ptp(vectors, axis=0).max()) < 1e-6:
        return None
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    # Several threads sum in another order, which t-SNE amplifies to another map.
    with threadpool_limits(1):
        positions = TSNE(
            perplexity=min(30.0, (len(vectors) - 1) / 3),
            init="pca",
            metric="cosine",
            learning_rate="auto",
            random_state=seed,
            n_jobs=1,
        ).fit_transform(vectors.astype(np.float64))
    # Rare far outliers would press all others together.
    low, high = np.percentile(positions, [0.5, 99.5], axis=0)
    extent = float(max(high - low)) or 1.0
    middle = (low + high) / 2
    return np.asarray(np.clip((positions - middle) / extent + 0.5, 0.0, 1.0))
