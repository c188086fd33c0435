"""Evaluations of random vectors."""

import numpy as np
import pytest
import torch

from lookalike.data.catalog import build_catalog, with_hierarchy
from lookalike.data.record import Details, Record
from lookalike.metrics.protocol import Roles
from lookalike.reporting.evaluation_data import evaluate_list

CPU = torch.device("cpu")


def make_vectors(seed: int, *, with_roles: bool = False, most: int = 120):
    """Random vectors with labels, two of them twins, and perhaps roles."""
    random = torch.Generator().manual_seed(seed)
    count = int(torch.randint(8, most, (1,), generator=random))
    vectors = torch.nn.functional.normalize(torch.randn(count, 12, generator=random), dim=1)
    labels = torch.randint(0, count // 3 + 1, (count,), generator=random)
    vectors[1], labels[0], labels[1], labels[2] = vectors[0], 0, 1, 0
    roles = None
    if with_roles:
        roles = Roles(
            torch.rand(count, generator=random) < 0.6,
            torch.rand(count, generator=random) < 0.7,
            torch.randint(-1, 4, (count,), generator=random),
        )
    return vectors, labels, roles


def make_evaluation(
    seed: int, *, category: bool = False, trained: bool = False, hierarchy: str | None = None
):
    vectors, labels, _ = make_vectors(seed, most=200)
    records = [
        Record(
            f"{i}.jpg", str(label), "list.txt", i + 1,
            details=Details(category="ab"[label % 2]) if category else None,
        )
        for i, label in enumerate(labels.tolist())
    ]  # fmt: skip
    catalog = with_hierarchy(build_catalog(records), hierarchy)
    seen = np.arange(len(catalog.classes)) % 5 if trained else None
    rows = torch.arange(len(records))
    return evaluate_list(catalog, rows, vectors, trained=seen, seed=0, device=CPU)


@pytest.fixture
def random_vectors():
    """Function of a seed to random vectors, labels and roles."""
    return make_vectors


@pytest.fixture
def random_evaluation():
    """Function of a seed to an evaluation of random vectors."""
    return make_evaluation
