"""Many workers measure the calibration, the pairs and the neighbours of one."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lookalike.distributed.world import ALONE, World
from lookalike.metrics import pair_scan as pairs_module
from lookalike.metrics.calibration import fit_calibration
from lookalike.metrics.protocol import Roles
from lookalike.metrics.topk import nearest_images


def measured(world):
    pairs_module.SIDE = 40  # several tiles for each worker
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 60, (250,), generator=generator)
    embeddings = torch.randn(60, 12, generator=generator)[labels]
    embeddings = embeddings + 0.5 * torch.randn(250, 12, generator=generator)
    roles = Roles(
        torch.rand(250, generator=generator) < 0.7,
        torch.rand(250, generator=generator) < 0.7,
        torch.randint(-1, 80, (250,), generator=generator),
    )
    found = [
        fit_calibration(embeddings, labels, roles=r, world=world).to_dict() for r in (None, roles)
    ]
    first = nearest_images(
        embeddings, labels, torch.arange(0, 250, 3), roles=roles, world=world, device=world.device
    )
    return [*found, [part.tolist() for part in vars(first).values()]]


def work(rank, size, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    torch.save(measured(World(rank=rank, size=size, local_size=size)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_workers_agree_with_one(monkeypatch, tmp_path):
    size = 3
    monkeypatch.setattr(pairs_module, "SIDE", 40)
    mp.spawn(work, args=(size, str(tmp_path)), nprocs=size)
    expected = measured(ALONE)
    for rank in range(size):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True) == expected


def test_neighbours_are_those_of_brute_force():
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
