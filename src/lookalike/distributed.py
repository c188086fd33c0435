"""The workers of a run: who we are, and the few collectives that the program needs.

With one worker every collective is the identity, so that no caller asks how many there are.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType

import torch
import torch.distributed as dist
from torch import Tensor

from lookalike.errors import ConfigError


@dataclass(frozen=True)
class World:
    """The workers of this run, seen from one of them.

    Attributes:
        rank: this worker's number, 0 to size - 1.
        size: how many workers there are on all machines together.
        local_size: how many of them run on this machine.
        device: where this worker computes.
    """

    rank: int = 0
    size: int = 1
    local_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def from_env(cls, device: str = "auto") -> World:
        """Join the workers that torchrun started, or be the only one.

        Args:
            device: "auto" (a CUDA device when there is one), "cpu" or "cuda".

        Raises:
            ConfigError: CUDA was asked for and is not there.
        """
        if device not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"run.device={device!r} is not one of auto, cpu, cuda")
        if device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("run.device=cuda, but torch finds no CUDA device; use cpu or auto")
        rank = int(os.environ.get("RANK", 0))
        size = int(os.environ.get("WORLD_SIZE", 1))
        local_rank = int(os.environ.get("LOCAL_RANK", 0))
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        if device == "cpu" or not torch.cuda.is_available():
            place = torch.device("cpu")
        else:
            if local_rank >= torch.cuda.device_count():
                raise ConfigError(
                    f"worker {local_rank} of this machine finds only "
                    f"{torch.cuda.device_count()} CUDA device(s); use fewer workers"
                )
            place = torch.device("cuda", local_rank)
            torch.cuda.set_device(place)
        if size > 1 and not dist.is_initialized():
            if place.type == "cuda":
                dist.init_process_group("nccl", timeout=timedelta(minutes=30), device_id=place)
            else:
                dist.init_process_group("gloo", timeout=timedelta(minutes=30))
        return cls(rank=rank, size=size, local_size=local_size, device=place)

    def __enter__(self) -> World:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After an error the group stays until the process ends: closing it would make the other
        # workers fail, each with a traceback, before this one has told what happened.
        if kind is None and self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    @property
    def is_main(self) -> bool:
        """Whether this worker speaks and writes for all."""
        return self.rank == 0

    def share(self, count: int, rank: int | None = None) -> range:
        """The part of `count` things that belongs to worker `rank` (default: this one).

        Shares are contiguous and differ by one at most; the first workers have the larger ones.
        """
        rank = self.rank if rank is None else rank
        base, more = divmod(count, self.size)
        start = rank * base + min(rank, more)
        return range(start, start + base + (rank < more))

    def sum(self, tensor: Tensor) -> Tensor:
        """`tensor` summed over the workers, in place."""
        if self.size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.SUM)
        return tensor

    def max(self, tensor: Tensor) -> Tensor:
        """The elementwise maximum over the workers, in place."""
        if self.size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The workers' tensors in order of rank; they may differ in their first dimension."""
        if self.size == 1:
            return [tensor]
        lengths = torch.zeros(self.size, dtype=torch.int64, device=tensor.device)
        lengths[self.rank] = tensor.shape[0]
        counts = [int(n) for n in self.sum(lengths).tolist()]
        padded = tensor.new_zeros((max(counts), *tensor.shape[1:]))
        padded[: tensor.shape[0]] = tensor
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return [part[:count] for part, count in zip(parts, counts, strict=True)]

    def broadcast(self, tensor: Tensor) -> Tensor:
        """The main worker's values of `tensor`, in place."""
        if self.size > 1:
            dist.broadcast(tensor, 0)
        return tensor

    def barrier(self) -> None:
        """Wait until every worker is here."""
        if self.size > 1:
            dist.barrier()


ALONE = World()
