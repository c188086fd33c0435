"""Many workers give the figures of one, to the last bit."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lookalike.distributed import World
from lookalike.retrieval.metrics import score


def sets() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 90, (400,), generator=generator)
    embeddings = torch.randn(400, 24, generator=generator)
    tiny = torch.randn(3, 4, generator=generator)  # two queries: fewer than three workers
    return [(embeddings, labels), (tiny, torch.tensor([1, 0, 1]))]


def work(rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    world = World(rank=rank, size=size, local_size=size)
    torch.save([score(*data, world=world).to_dict() for data in sets()], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("size", [2, 3])
def test_workers_agree_with_one(size, tmp_path):
    mp.spawn(work, args=(size, str(tmp_path)), nprocs=size)
    expected = [score(*data).to_dict() for data in sets()]
    for rank in range(size):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True) == expected
