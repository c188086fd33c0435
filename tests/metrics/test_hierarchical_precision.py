"""H-AP against its definition, image by image, and against average precision."""

import numpy as np
import pytest
import torch

from lookalike.distributed.world import World
from lookalike.metrics import hierarchical_precision as module
from lookalike.metrics.hierarchical_precision import hierarchical_precision
from lookalike.metrics.protocol import Roles
from lookalike.metrics.scores import measure_queries

CPU = torch.device("cpu")


def drawn(count=60, classes=12):
    fine = torch.randint(0, classes, (count,))
    middle, coarse = fine // 2, fine // 6
    centres = torch.randn(classes, 10) + torch.randn(classes // 2, 10)[torch.arange(classes) // 2]
    return centres[fine] + 0.8 * torch.randn(count, 10), [fine, middle, coarse]


def by_definition(vectors, levels, query, allowed):
    x = torch.nn.functional.normalize(vectors.double()).numpy()
    cosine = x @ x[query]
    images = [k for k in np.argsort(-cosine, kind="stable") if allowed[k]]
    common = {k: sum(bool(each[k] == each[query]) for each in levels) for k in images}
    number = {level: list(common.values()).count(level) for level in range(len(levels) + 1)}
    relevance = [common[k] / len(levels) / number[common[k]] for k in images]
    total = 0.0
    for rank, mine in enumerate(relevance, 1):
        if mine:
            total += sum(min(mine, other) for other in relevance[:rank]) / rank
    return total / sum(relevance)


@pytest.mark.parametrize("some_roles", [False, True])
def test_against_the_definition(some_roles, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 60 * 7)
    vectors, levels = drawn()
    roles = None
    if some_roles:
        query, gallery = torch.rand(2, 60) < 0.7
        roles = Roles(query, gallery, torch.randint(-1, 20, (60,)))
    queries = measure_queries(vectors, levels[0], roles=roles).rows
    found = hierarchical_precision(vectors, levels, queries, roles=roles, world=World(), device=CPU)
    for value, query in zip(found.tolist(), queries.tolist(), strict=True):
        allowed = np.arange(60) != query
        if roles is not None:
            own = roles.sequence.numpy()
            allowed &= roles.gallery.numpy() & ((own != own[query]) | (own[query] < 0))
        assert value == pytest.approx(by_definition(vectors, levels, query, allowed), rel=1e-10)


def test_one_level_is_average_precision_and_a_perfect_order_is_1():
    vectors, levels = drawn()
    plain = measure_queries(vectors, levels[0], full=True)
    found = hierarchical_precision(vectors, levels[:1], plain.rows, world=World(), device=CPU)
    torch.testing.assert_close(found, plain.values["average_precision"], rtol=1e-12, atol=0)
    angle = torch.tensor([0.0, 0.1, 0.5, 0.6, 2.0, 2.1])  # from the first: 1, then 2 and 3
    line = torch.stack([angle.cos(), angle.sin()], 1)
    fine, coarse = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 0, 0, 0, 1, 1])
    first = torch.tensor([0])
    assert hierarchical_precision(line, [fine, coarse], first, world=World(), device=CPU) == 1


def test_ties_are_decided_against_the_query():
    collapsed = torch.ones(4, 3)
    fine, coarse = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 0, 0, 1])
    found = hierarchical_precision(
        collapsed, [fine, coarse], torch.tensor([0]), world=World(), device=CPU
    )
    # Ranked: the other family (0), the other genus (1/2), its own class (1).
    assert found.item() == pytest.approx((0.5 / 2 + 1.5 / 3) / 1.5, rel=1e-12)


def test_several_classes_of_an_image():
    vectors, (fine, _, coarse) = drawn()
    second = torch.where(torch.rand(60) < 0.3, (fine + 1) % 12, -1)
    both = [torch.stack([fine, second], 1),
            torch.stack([coarse, torch.where(second < 0, -1, second // 6)], 1)]  # fmt: skip
    queries = measure_queries(vectors, both[0]).rows
    found = hierarchical_precision(vectors, both, queries, world=World(), device=CPU)
    sets = [[set(row) - {-1} for row in each.tolist()] for each in both]
    query = int(queries[0])
    levels = [torch.tensor([float(bool(own & each[query])) for own in each]) for each in sets]
    allowed = np.arange(60) != query
    expected = by_definition(vectors, levels, query, allowed)
    assert found[0].item() == pytest.approx(expected, rel=1e-10)
