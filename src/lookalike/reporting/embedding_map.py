"""The embedding in the plane: t-SNE of a sample of the images."""

from __future__ import annotations

import numpy as np

MOST_POINTS = 1_500
"""Images of the map."""

_OF_A_CLASS = 12


def sample_points(labels: np.ndarray, seed: int, most: int = MOST_POINTS) -> np.ndarray:
    """The images to draw: all, or some of each of as many classes as there is room for.

    Images of a class show whether they lie together, so classes are drawn, not single images.

    Args:
        labels: (M,) the class of each image.
        seed: another seed draws others.
        most: how many images at most.

    Returns:
        Ascending indices.
    """
    if len(labels) <= most:
        return np.arange(len(labels))
    random = np.random.default_rng(seed)
    order = random.permutation(len(labels))
    # Classes in the order in which a blind draw of images meets them: large ones come first.
    _, first, classes = np.unique(labels[order], return_index=True, return_inverse=True)
    turn = np.argsort(np.argsort(first))[classes]  # of the class of each image in `order`
    by_turn = np.argsort(turn, kind="stable")
    sizes = np.bincount(turn)
    place = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[by_turn][place < _OF_A_CLASS][:most])


def flat(vectors: np.ndarray, seed: int) -> np.ndarray | None:
    """Places in the unit square, such that neighbours of the embedding stay neighbours.

    Distances between far groups, and the sizes of groups, mean nothing.

    Args:
        vectors: (n, D) of unit length.
        seed: of the optimization.

    Returns:
        (n, 2) within 0 to 1, or None where there are too few images, or all are alike.
    """
    if len(vectors) < 5 or float(np.ptp(vectors, axis=0).max()) < 1e-6:
        return None
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    # Several threads sum in another order, of which a t-SNE makes another map.
    with threadpool_limits(1):
        places = TSNE(
            perplexity=min(30.0, (len(vectors) - 1) / 3),
            init="pca",
            metric="cosine",
            learning_rate="auto",
            random_state=seed,
            n_jobs=1,
        ).fit_transform(vectors.astype(np.float64))
    # Rare far outliers would press all others together.
    low, high = np.percentile(places, [0.5, 99.5], axis=0)
    span = float(max(high - low)) or 1.0
    middle = (low + high) / 2
    return np.asarray(np.clip((places - middle) / span + 0.5, 0.0, 1.0))
