"""Files of a checkpoint: the tensors of one worker, and copies of them in host memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from lookalike.distributed.world import World
from lookalike.training import head_checkpoint
from lookalike.training.checkpoint import (
    AVERAGE_FILE,
    NETWORK_FILE,
    OPTIMIZER_FILE,
    Trained,
    memory_file,
)
from lookalike.training.network_shards import sharded_from, whole_of

Files = dict[str, tuple[dict[str, Tensor], dict[str, str]]]
"""Tensors and metadata by the name of the file."""

_SHARDED = {NETWORK_FILE, OPTIMIZER_FILE, AVERAGE_FILE}
"""Files whose tensors are gathered where workers share the network: they are copies already."""


def files_of(
    trained: Trained, world: World
) -> Iterator[tuple[str, tuple[dict[str, Tensor], dict[str, str]]]]:
    """Files of this worker: name, tensors and metadata."""
    for name, tensors in _network_files(trained):
        if trained.shards is not None:
            tensors = _gathered(tensors, world)
        if world.is_main:
            yield name, (tensors, {})
    if world.is_main:
        for name, memory in trained.memories.items():
            yield memory_file(name), (memory.state_dict(), {})
    for name, head in trained.heads.items():
        if head.sharded or world.is_main:
            part = world.rank if head.sharded else 0
            yield (
                head_checkpoint.file_name(name, part),
                head_checkpoint.content(head, trained.optimizer),
            )


def _network_files(trained: Trained) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Files of the network: name and tensors, sharded where the network is."""
    yield NETWORK_FILE, trained.network.state_dict()
    parameters = dict(trained.network.named_parameters())
    yield (
        OPTIMIZER_FILE,
        {
            f"{name}.{key}": sharded_from(value, parameters[name]) if value.ndim else value
            for name, optimized in trained.optimized.items()
            for key, value in trained.optimizer.state.get(optimized, {}).items()
            if isinstance(value, Tensor)
        },
    )
    if trained.average is not None:
        yield AVERAGE_FILE, trained.average.sharded()


def _gathered(tensors: Mapping[str, Tensor], world: World) -> dict[str, Tensor]:
    """Whole copies of sharded tensors in the host memory of the main worker; nothing on others."""
    found = {}
    for name, tensor in tensors.items():
        whole = whole_of(tensor)
        if world.is_main:
            found[name] = _copy(whole)
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
    return found


def on_host(files: Files, device: torch.device, trained: Trained) -> Files:
    """Copies of the tensors in host memory: what training changes next does not change them."""
    copies = set() if trained.shards is None else _SHARDED
    copied = {
        file: (
            tensors
            if file in copies
            else {name: _copy(tensor.detach()) for name, tensor in tensors.items()},
            metadata,
        )
        for file, (tensors, metadata) in files.items()
    }
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return copied


def _copy(tensor: Tensor) -> Tensor:
    if tensor.device.type == "cpu":
        return tensor.clone(memory_format=torch.contiguous_format)
    # Pinned memory is faster by far, and torch keeps it for the next checkpoint.
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
