"""k-reciprocal re-ranking as the paper's text and algorithm say it, dense, in float64."""

import numpy as np


def reranked_distance(queries, gallery, k1, k2, weight):
    """(Q, G) final distances."""
    everything = np.concatenate([queries, gallery])
    count, asks = len(everything), len(queries)
    distance = 2 - 2 * everything @ everything.T
    distance = distance / distance.max(1, keepdims=True)
    # An image is its own nearest, whatever copies there are.
    ranked = np.argsort(distance - 10 * np.eye(count), axis=1, kind="stable")

    def reciprocal(i, k):
        return {j for j in ranked[i, : k + 1] if i in ranked[j, : k + 1]}

    vectors = np.zeros((count, count))
    for i in range(count):
        own = reciprocal(i, k1)
        grown = set(own)
        for j in own:
            more = reciprocal(j, round(k1 / 2))
            if len(more & own) > 2 / 3 * len(more):
                grown |= more
        for j in grown:
            vectors[i, j] = np.exp(-distance[i, j])
        vectors[i] /= vectors[i].sum()
    smooth = np.stack([vectors[ranked[i, :k2]].mean(0) for i in range(count)])
    final = np.empty((asks, count - asks))
    for i in range(asks):
        shared = np.minimum(smooth[i], smooth[asks:]).sum(1)
        final[i] = (1 - weight) * (1 - shared / (2 - shared)) + weight * distance[i, asks:]
    return final
