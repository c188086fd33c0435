"""A world of one worker that uses its collectives, so that one device can try NCCL."""

from contextlib import contextmanager

import torch.distributed as dist

from lookalike.distributed.world import World


class _Size(int):
    """1 in arithmetic; more than one worker, where the program asks whether it is alone."""

    def __eq__(self, other):
        return int(self) == other and other != 1

    def __gt__(self, other):
        return other == 1 or int(self) > other

    __hash__ = int.__hash__


@contextmanager
def world_of_one(device):
    """The world, with its process group: NCCL on a CUDA device, gloo on the CPU."""
    cuda = device.type == "cuda"
    dist.init_process_group(
        "nccl" if cuda else "gloo", store=dist.HashStore(), rank=0, world_size=1,
        device_id=device if cuda else None,
    )  # fmt: skip
    try:
        yield World(size=_Size(1), device=device)
    finally:
        dist.destroy_process_group()
