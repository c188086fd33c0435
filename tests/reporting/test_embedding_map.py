"""The map of the embedding."""

import numpy as np
from threadpoolctl import threadpool_limits

from lookalike.reporting.embedding_map import project, sample_points


def test_the_map_is_the_same_on_any_number_of_threads():
    random = np.random.default_rng(0)
    centres = random.normal(size=(4, 32))
    vectors = np.repeat(centres, 30, 0) + 0.3 * random.normal(size=(120, 32))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(project(vectors.astype(np.float32), 0))
    places, again = found
    assert np.array_equal(places, again)
    assert places.shape == (120, 2)
    assert 0 <= places.min() <= places.max() <= 1
    # The closest point is of the same group.
    away = ((places[:, None] - places[None]) ** 2).sum(2) + np.eye(120) * 9
    assert np.mean(away.argmin(1) // 30 == np.arange(120) // 30) > 0.95


def test_the_map_shows_whole_classes():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(50), 20))
    drawn = sample_points(labels, 0, most=100)
    assert drawn.tolist() == sorted(set(drawn.tolist()))
    _, counts = np.unique(labels[drawn], return_counts=True)
    assert len(drawn) == 100
    assert sorted(counts)[1:] == [12] * (len(counts) - 1)
    assert sample_points(labels, 0, most=1000).tolist() == list(range(1000))
    assert drawn.tolist() != sample_points(labels, 1, most=100).tolist()
