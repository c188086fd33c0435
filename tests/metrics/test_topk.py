"""Top-k of tiles, nearest images and top matches, against brute force."""

import numpy as np
import pytest
import torch

from lookalike.distributed.world import ALONE
from lookalike.metrics import topk
from lookalike.metrics.protocol import Roles
from lookalike.metrics.topk import TopK, nearest_images, top_matches


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 2, 7, 60])
@pytest.mark.parametrize("tile", [1, 5, 16, 100])
def test_top_k_of_equal_values_is_by_row_for_any_tiles(dtype, count, tile):
    for kinds in (1, 2, 6, 1000):  # how many different numbers there are
        found = torch.randint(-kinds, kinds, (30, 50)).to(dtype)
        found[torch.rand(found.shape) < 0.3] = -torch.inf
        found[0] = -torch.inf
        best = TopK(found, count)
        for left in range(0, 50, tile):
            best.add(found[:, left : left + tile].clone(), left)
        order = np.argsort(-found.numpy(), axis=1, kind="stable")[:, :count]
        values = np.take_along_axis(found.numpy(), order, 1)
        assert best.values.dtype == dtype
        assert np.array_equal(best.values.numpy(), values)
        there = values > -np.inf
        assert np.array_equal(best.images.numpy()[there], order[there])


def test_nearest_images_equal_brute_force():
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(0, 30, (120,), generator=generator)
    x = torch.nn.functional.normalize(
        torch.randn(30, 8, generator=generator)[labels].double()
        + 0.6 * torch.randn(120, 8, generator=generator)
    )
    roles = Roles(
        torch.ones(120, dtype=torch.bool),
        torch.rand(120, generator=generator) < 0.6,
        torch.randint(-2, 40, (120,), generator=generator).clamp(-1),
    )
    queries = torch.arange(0, 120, 2)
    found = nearest_images(x, labels, queries, roles=roles, world=ALONE, device=ALONE.device)
    for number, query in enumerate(queries.tolist()):
        others = roles.gallery & (torch.arange(120) != query)
        others &= (roles.sequence[query] < 0) | (roles.sequence != roles.sequence[query])
        cosines = (x @ x[query]).masked_fill(~others, -9)
        assert found.rows[number] == cosines.argmax()
        assert found.cosines[number] == pytest.approx(float(cosines.max()), abs=1e-7)
        wrong = cosines.masked_fill(labels == labels[query], -9)
        assert found.wrong_rows[number] == wrong.argmax()
        assert found.wrong_cosines[number] == pytest.approx(float(wrong.max()), abs=1e-7)


def unit(count, dim=8):
    return torch.nn.functional.normalize(torch.randn(count, dim), dim=1)


@pytest.mark.parametrize("tile", [7, 64, 10_000])
def test_top_matches_equal_brute_force(monkeypatch, tile):
    monkeypatch.setattr(topk, "FLOAT32_TILE", tile)
    monkeypatch.setattr(topk, "QUERIES", tile)
    queries, gallery = unit(50), unit(90)
    groups, others = torch.arange(50) % 5, torch.arange(90) % 7
    found = top_matches(queries, gallery, 12, query_groups=groups, gallery_groups=others)
    cosines = queries.double() @ gallery.double().T
    assert torch.allclose(found.lowest.double(), cosines.amin(1), atol=1e-6)
    cosines[groups[:, None] == others] = -torch.inf
    expected = cosines.topk(12, dim=1)
    assert torch.allclose(found.cosines.double(), expected.values, atol=1e-6)
    assert torch.equal(found.places, expected.indices)


def test_top_matches_of_small_galleries_and_of_equal_vectors():
    x = unit(4, 3)
    found = top_matches(x, x, 9, query_groups=torch.zeros(4), gallery_groups=torch.zeros(4))
    assert found.places.shape == (4, 4)
    assert (found.places == -1).all()
    same = x[:1].expand(6, 3)
    [tied] = top_matches(x[:1], same, 4).places.tolist()
    assert tied == sorted(set(tied))
    assert top_matches(x[:0], x, 2).places.shape == (0, 2)
