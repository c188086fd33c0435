"""Many workers give the figures of one, to the last bit."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lookalike.distributed.world import ALONE, World
from lookalike.metrics import fast_similarity, ranking
from lookalike.metrics.protocol import Roles
from lookalike.metrics.scores import measure_queries, score


def sets() -> list[dict]:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 90, (400,), generator=generator)
    embeddings = torch.randn(400, 24, generator=generator)
    tiny = torch.randn(3, 4, generator=generator)  # two queries: fewer than three workers
    asking, searched = torch.rand(2, 400, generator=generator) < 0.6
    sequence = torch.randint(-1, 50, (400,), generator=generator)
    return [
        {"embeddings": embeddings, "labels": labels},
        {"embeddings": embeddings, "labels": labels, "roles": Roles(asking, searched, sequence)},
        {"embeddings": tiny, "labels": torch.tensor([1, 0, 1])},
    ]


def everything(world: World) -> list:
    return [
        (score(**data, world=world).to_dict(), found.rows, found.relevant, found.values)
        for data in sets()
        for full in (False, True)
        for found in [measure_queries(**data, precision=(3,), full=full, world=world)]
    ]


def work(rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    ranking.BLOCK = 64  # there are many tiles to share out
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    world = World(rank=rank, size=size, local_size=size)
    torch.save(everything(world), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("size", [2, 3])
def test_workers_agree_with_one(size, tmp_path):
    mp.spawn(work, args=(size, str(tmp_path)), nprocs=size)
    expected = everything(ALONE)
    for rank in range(size):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for (scores, rows, relevant, values), theirs in zip(expected, found, strict=True):
            assert theirs[0] == scores
            assert theirs[1].equal(rows)
            assert theirs[2].equal(relevant)
            assert list(theirs[3]) == list(values)
            assert all(theirs[3][name].equal(one) for name, one in values.items())


def work_apart(rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    ranking.BLOCK = 64
    fast_similarity.bf16_is_faster = lambda: rank == 0
    # Room for what the first worker keeps in bf16, and for nothing of the second's float32.
    fast_similarity.KEPT_BYTES = 400 * 24 * 3
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    found = score(**sets()[0], world=World(rank=rank, size=size, local_size=size))
    torch.save(found.to_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_workers_on_other_processors_agree_too(tmp_path):
    mp.spawn(work_apart, args=(2, str(tmp_path)), nprocs=2)
    expected = score(**sets()[0]).to_dict()
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True) == expected
