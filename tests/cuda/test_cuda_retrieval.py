"""Measuring on the device: the same figures as on the CPU, to the last bit."""

import pytest
import torch

from lookalike.distributed.world import World
from lookalike.metrics import fast_similarity
from lookalike.metrics.calibration import fit_calibration
from lookalike.metrics.protocol import Roles
from lookalike.metrics.scores import measure_queries, score
from lookalike.metrics.topk import nearest_images, top_matches
from lookalike.metrics.verification import count_pairs

COUNT, CLASSES, DIM = 1500, 300, 48


@pytest.fixture(scope="module")
def vectors():
    """Embeddings with twins, and labels; some are zero."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES, (COUNT,), generator=generator)
    centres = torch.randn(CLASSES, DIM, generator=generator)
    x = centres[labels] + 1.3 * torch.randn(COUNT, DIM, generator=generator)
    x[10:20] = x[0:10]
    x[30] = 0
    return x, labels


def roles_of(count):
    numbers = torch.arange(count)
    return Roles(numbers % 3 == 0, numbers % 3 != 0, torch.where(numbers % 7 == 0, numbers % 5, -1))


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("with_roles", [False, True])
def test_ranking_is_exact(device, vectors, full, with_roles):
    x, labels = vectors
    roles = roles_of(len(x)) if with_roles else None
    true = measure_queries(x, labels, roles=roles, full=full, precision=(1, 5))
    world = World(device=device)
    mine = measure_queries(
        x.to(device), labels, roles=roles, full=full, precision=(1, 5), world=world
    )
    assert torch.equal(mine.rows, true.rows)
    for name, values in true.values.items():
        assert torch.equal(mine.values[name], values), name


def test_ranking_is_exact_at_each_level(device, vectors, monkeypatch):
    x, labels = vectors
    true = score(x, labels)
    found = fast_similarity.precisions(device)
    if torch.cuda.get_device_capability(device) >= (8, 0):
        assert [level.dtype for level in found] == [torch.bfloat16, torch.float32, torch.float64]
    for level in found:
        monkeypatch.setattr(
            "lookalike.metrics.fast_similarity.precisions",
            lambda where, level=level: list(dict.fromkeys([level, fast_similarity.EXACT])),
        )
        assert score(x.to(device), labels, world=World(device=device)) == true


def test_embeddings_may_be_elsewhere_than_the_computation(device, vectors):
    x, labels = vectors
    true = score(x, labels)
    assert score(x, labels, device=device) == true
    assert score(x.to(device), labels, device=torch.device("cpu")) == true


def test_nearest_and_pairs(device, vectors):
    x, labels = vectors
    queries = torch.arange(0, len(x), 3)
    true = nearest_images(x, labels, queries, world=World(), device=torch.device("cpu"))
    world = World(device=device)
    mine = nearest_images(x, labels, queries, world=world, device=device)
    for name in ("rows", "cosines", "wrong_rows", "wrong_cosines"):
        assert torch.equal(getattr(mine, name), getattr(true, name)), name
    counts = [count_pairs(x.to(w.device), labels, world=w) for w in (World(), world)]
    assert (counts[0].same == counts[1].same).all()
    assert (counts[0].different == counts[1].different).all()


def test_calibration(device, vectors):
    pytest.importorskip("sklearn")
    x, labels = vectors
    both = [
        fit_calibration(
            x.to(world.device), labels, roles=None, source="test", chose_checkpoint=False,
            seen_in_training=0, world=world,
        )
        for world in (World(), World(device=device))
    ]  # fmt: skip
    assert both[0].level() == both[1].level()


def test_neighbours_in_float32(device, vectors):
    x = torch.nn.functional.normalize(vectors[0])
    true = top_matches(x[:100], x, 5)
    mine = top_matches(x[:100].to(device), x.to(device), 5)
    assert torch.allclose(mine.cosines.cpu(), true.cosines, atol=1e-5)
