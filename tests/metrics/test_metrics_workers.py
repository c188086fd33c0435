"""Metrics on several workers equal those on one, to the last bit."""

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lookalike.distributed.world import ALONE, World
from lookalike.metrics import fast_similarity, pair_scan, ranking
from lookalike.metrics.calibration import fit_calibration
from lookalike.metrics.protocol import Roles
from lookalike.metrics.scores import measure_queries, score
from lookalike.metrics.topk import nearest_images


def sets() -> list[dict]:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 90, (400,), generator=generator)
    embeddings = torch.randn(400, 24, generator=generator)
    tiny = torch.randn(3, 4, generator=generator)  # two queries: fewer than three workers
    query, gallery = torch.rand(2, 400, generator=generator) < 0.6
    sequence = torch.randint(-1, 50, (400,), generator=generator)
    return [
        {"embeddings": embeddings, "labels": labels},
        {"embeddings": embeddings, "labels": labels, "roles": Roles(query, gallery, sequence)},
        {"embeddings": tiny, "labels": torch.tensor([1, 0, 1])},
    ]


def rankings(world: World) -> list:
    found = []
    for data in sets():
        for full in (False, True):
            queries = measure_queries(**data, precision=(3,), full=full, world=world)
            values = {name: values.tolist() for name, values in queries.values.items()}
            means = score(**data, world=world).to_dict()
            found.append((means, queries.rows.tolist(), queries.relevant.tolist(), values))
    return found


def pairs_and_neighbours(world: World) -> list:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 60, (250,), generator=generator)
    embeddings = torch.randn(60, 12, generator=generator)[labels]
    embeddings = embeddings + 0.5 * torch.randn(250, 12, generator=generator)
    roles = Roles(
        torch.rand(250, generator=generator) < 0.7,
        torch.rand(250, generator=generator) < 0.7,
        torch.randint(-1, 80, (250,), generator=generator),
    )
    calibrations = [
        fit_calibration(embeddings, labels, roles=some, world=world).to_dict()
        for some in (None, roles)
    ]
    nearest = nearest_images(
        embeddings, labels, torch.arange(0, 250, 3), roles=roles, world=world, device=world.device
    )
    return [*calibrations, *(part.tolist() for part in vars(nearest).values())]


def work(rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    ranking.BLOCK = 64  # many tiles to share out
    pair_scan.SIDE = 40
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    world = World(rank=rank, size=size, local_size=size)
    found = [rankings(world), pairs_and_neighbours(world)]
    # On different processors.
    fast_similarity.bf16_is_faster = lambda: rank == 0
    # Room for the bf16 vectors of the first worker, not for the float32 ones of the others.
    fast_similarity.KEPT_BYTES = 400 * 24 * 3
    found.append(rankings(world))
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_three_workers_agree_with_one_also_on_different_processors(tmp_path, monkeypatch):
    mp.spawn(work, args=(3, str(tmp_path)), nprocs=3)
    monkeypatch.setattr(pair_scan, "SIDE", 40)
    alone = rankings(ALONE)
    expected = [alone, pairs_and_neighbours(ALONE), alone]
    for rank in range(3):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True) == expected
