"""Metrics, neighbours and pairs of an evaluation."""

import numpy as np
import torch

from lookalike.metrics.verification import count_pairs

CPU = torch.device("cpu")


def test_metrics_neighbours_and_pairs_agree(random_evaluation):
    found = random_evaluation(5)
    hits = found.per_query.values["recall_at_1"].numpy()
    np.testing.assert_array_equal(hits == 1, ~found.neighbours.wrong)
    assert found.neighbours.queries.tolist() == found.per_query.rows.tolist()
    counted = count_pairs(found.vectors, torch.from_numpy(found.labels), device=CPU)
    np.testing.assert_array_equal(found.pairs.same, counted.same)
