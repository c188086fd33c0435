"""Nearest neighbours of queries, against a plain search."""

import numpy as np
import pytest
import torch

from lookalike.metrics import topk
from lookalike.metrics.scores import measure_queries
from lookalike.metrics.verification import BINS
from lookalike.reporting import query_neighbours
from lookalike.reporting.query_neighbours import find_neighbours, sample_queries


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("with_roles", [False, True])
def test_neighbours_are_those_of_a_plain_search(monkeypatch, seed, with_roles, random_vectors):
    monkeypatch.setattr(topk, "TILE", 17)
    monkeypatch.setattr(topk, "QUERIES", 7)
    vectors, labels, roles = random_vectors(seed, with_roles=with_roles)
    queries, of = sample_queries(labels, roles, 0)
    assert len(queries) == of > 0
    found = find_neighbours(vectors, labels, queries, roles=roles, count=5)
    unit, klass = vectors.double().numpy(), labels.numpy()
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    bins = np.zeros((2, BINS))
    for place, query in enumerate(found.queries):
        seen = np.arange(len(unit)) != query
        if roles is not None:
            sequence = roles.sequence.numpy()
            seen &= roles.gallery.numpy()
            seen &= (sequence[query] < 0) | (sequence != sequence[query])
        images = np.flatnonzero(seen)
        cosines, same = unit[images] @ unit[query], klass[images] == klass[query]
        # What is of the class comes after what is as close.
        order = np.lexsort((same, -(cosines - same * 2.0**-23)))[:5]
        got = found.images[place][found.images[place] >= 0]
        assert len(got) == min(5, len(images))
        np.testing.assert_allclose(unit[got] @ unit[query], cosines[order], atol=2e-7)
        np.testing.assert_array_equal(klass[got] == klass[query], same[order])
        np.testing.assert_array_equal(found.right[place][: len(got)], same[order])
        assert found.match_cosine[place] == pytest.approx(cosines[same].max(), abs=1e-7)
        assert klass[found.match[place]] == klass[query]
        if (~same).any():
            assert found.other_cosine[place] == pytest.approx(cosines[~same].max(), abs=1e-7)
        else:
            assert found.other[place] == -1
        for part, mask in zip(bins, (same, ~same), strict=True):
            cell = np.clip(np.floor((cosines[mask] + 1) * 2**16), 0, BINS - 1).astype(int)
            part += np.bincount(cell, minlength=BINS)
    for counts, part in zip((found.pairs.same, found.pairs.different), bins, strict=True):
        assert counts.sum() == part.sum()
        assert np.abs(counts - part).sum() <= 0.01 * part.sum() + 4  # at the edges of bins


def test_ties_rank_the_own_class_last_and_copies_by_row():
    x = torch.eye(3)[[0, 0, 0, 1, 0, 0]]
    labels = torch.tensor([0, 0, 1, 2, 1, 0])
    found = find_neighbours(x, labels, torch.tensor([0, 4]), count=4)
    assert found.images.tolist() == [[2, 4, 1, 5], [0, 1, 5, 2]]
    assert found.match.tolist() == [1, 2]
    assert found.other.tolist() == [2, 0]
    assert (found.cosines == 1).all()


def test_many_queries_are_sampled(monkeypatch, random_vectors):
    _, labels, _ = random_vectors(3)
    monkeypatch.setattr(query_neighbours, "MOST_QUERIES", 20)
    queries, of = sample_queries(labels, None, 0)
    everyone = {i for i in range(len(labels)) if (labels == labels[i]).sum() > 1}
    assert len(queries) == 20 < of == len(everyone)
    assert set(queries.tolist()) < everyone
    assert queries.tolist() == sorted(set(queries.tolist()))
    assert queries.tolist() != sample_queries(labels, None, 1)[0].tolist()
    assert torch.equal(queries, sample_queries(labels, None, 0)[0])


def test_ties_are_ranked_as_in_the_scores():
    """A right image that is better by one epsilon of float32 is tied, and stands behind."""

    def at(steps):
        cosine = steps / 2**26
        return [cosine, (1 - cosine**2) ** 0.5]

    steps = 2**25
    for more, first in ((8, 2), (9, 1)):
        x = torch.tensor([[1.0, 0.0], at(steps + more), at(steps)], dtype=torch.float64)
        labels = torch.tensor([0, 0, 1])
        found = find_neighbours(x, labels, torch.tensor([0]), count=2)
        assert found.images[0, 0] == first
        assert measure_queries(x, labels).values["recall_at_1"][0] == (first == 1)
