"""Agreement of clusters of the embeddings with the classes."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from lookalike.errors import DataError
from lookalike.metrics.exact_similarity import STEPS, unit_integers
from lookalike.metrics.scores import checked


def nmi(embeddings: Tensor | np.ndarray, labels: Tensor | np.ndarray, seed: int = 0) -> float:
    """Normalised mutual information of the classes and of as many clusters, from 0 to 1.

    Clusters are those of scikit-learn's k-means (k-means++ once, Lloyd) of the unit vectors in
    float32. The mutual information is divided by the arithmetic mean of the two entropies, and is
    not adjusted for chance: with many small classes it is high for any model, and the choice of
    the first centres moves it. It takes long for many classes, and runs in one thread, as sums of
    several would differ from run to run.

    Args:
        embeddings: (N, D) of any floating type and length.
        labels: (N,) integers.
        seed: of the first centres; the same seed, images and order give the same value.

    Raises:
        TrainingError: an embedding is not finite.
        DataError: there is no image.
    """
    # Loaded on demand: it takes a second, and few runs ask for this.
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import normalized_mutual_info_score
    from threadpoolctl import threadpool_limits

    embeddings, labels = checked(embeddings, labels)
    if len(labels) == 0:
        raise DataError("validation cannot be measured: there are no images")
    everything = torch.arange(len(labels))
    whole = unit_integers(embeddings, everything, torch.device("cpu"))
    unit = whole.double().div_(STEPS).float().numpy()  # (N, D)
    count = len(labels.unique())
    with threadpool_limits(limits=1), warnings.catch_warnings():
        # Fewer clusters than classes: a collapsed model, which the value shows.
        warnings.filterwarnings("ignore", "Number of distinct clusters", ConvergenceWarning)
        clusters = KMeans(count, n_init=1, random_state=seed).fit_predict(unit)
    return float(normalized_mutual_info_score(labels.cpu().numpy(), clusters))
