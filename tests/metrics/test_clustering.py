"""Normalised mutual information against its definition, on clusters that are certain."""

import math

import pytest
import torch
from threadpoolctl import threadpool_limits

from lookalike.errors import DataError, TrainingError
from lookalike.metrics.clustering import nmi


def by_definition(table: list[list[int]]) -> float:
    """Of a contingency table: mutual information over the mean of the entropies."""
    total = sum(map(sum, table))
    rows = [sum(row) / total for row in table]
    columns = [sum(column) / total for column in zip(*table, strict=True)]
    entropy = [-sum(p * math.log(p) for p in side if p) for side in (rows, columns)]
    mutual = sum(
        n / total * math.log(n / total / rows[i] / columns[j])
        for i, row in enumerate(table)
        for j, n in enumerate(row)
        if n
    )
    return mutual / (sum(entropy) / 2)


def blobs(table: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes (rows) in directions (columns) that no k-means can mistake."""
    labels = torch.tensor([i for i, row in enumerate(table) for n in row for _ in range(n)])
    places = torch.tensor([j for row in table for j, n in enumerate(row) for _ in range(n)])
    x = torch.eye(16)[places] + 1e-3 * torch.randn(len(places), 16)
    order = torch.randperm(len(labels))
    return (x * 10 ** torch.randn(len(x), 1))[order], labels[order] * 7 - 3


@pytest.mark.parametrize(
    "table",
    [
        [[9, 0, 0], [0, 20, 0], [0, 0, 5]],
        [[9, 4, 0], [1, 20, 3], [0, 6, 5]],
        [[5, 5], [5, 5]],
        [[10, 0, 0, 2], [0, 8, 1, 0], [3, 0, 9, 0], [0, 4, 0, 7]],
    ],
)
def test_nmi_equals_that_of_the_contingency_table(table):
    assert nmi(*blobs(table), seed=3) == pytest.approx(by_definition(table), abs=1e-12)


def test_nmi_depends_on_the_seed_and_not_on_threads():
    x, labels = torch.randn(3000, 32), torch.randint(40, (3000,))
    figures = []
    for threads in (1, 3):
        with threadpool_limits(limits=threads):
            figures.append(nmi(x, labels, seed=5))
    assert figures[0] == figures[1]
    assert figures[0] != nmi(x, labels, seed=6)  # nothing to find: the first centres decide


def test_nmi_refuses_what_cannot_be_measured():
    with pytest.raises(DataError, match="no images"):
        nmi(torch.empty(0, 4), torch.empty(0).long())
    with pytest.raises(TrainingError, match="1 of 2 embeddings are not finite"):
        nmi(torch.tensor([[1.0], [math.nan]]), torch.tensor([0, 1]))


def test_nmi_of_a_collapsed_model():
    assert nmi(torch.ones(20, 4), torch.arange(20) // 5) == 0
