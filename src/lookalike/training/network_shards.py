"""Sharding of the network over the workers by FSDP2: weights, gradients and optimizer state.

Each worker keeps its part of each weight: rows of the first dimension. FSDP2
(`torch.distributed.fsdp.fully_shard`) gathers the weights of a block before it is used, frees them
after it, and averages the gradients over the workers as it shares them out. The optimizer, the
norm of the gradients and the average of the weights read the parts as plain tensors, so that they
are the same with and without sharding.

Whatever is done with the model between steps (measurements, saving) takes place on a whole copy of
the network, which has weights on each worker only meanwhile: FSDP2 gathers in each forward pass,
and measurements have different numbers of them on the workers.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from lookalike.distributed.world import World
from lookalike.model.freed_memory import return_freed_memory
from lookalike.model.training_network import TrainingNetwork

_SEQUENCES = ("blocks", "stages", "layers", "layer1", "layer2", "layer3", "layer4")
"""Names that timm gives to sequences of blocks."""


def part_of(tensor: Tensor) -> Tensor:
    """Part of a sharded tensor on this worker, on the same memory; any other tensor itself."""
    with torch.no_grad():
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor.detach()


def whole_of(tensor: Tensor) -> Tensor:
    """Values of a sharded tensor, gathered by all workers together; any other tensor itself."""
    with torch.no_grad():
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.detach()


def as_sharded(values: Tensor, like: Tensor) -> Tensor:
    """`values`, the same on every worker, sharded as `like` is; themselves where it is not."""
    if not isinstance(like, DTensor) or isinstance(values, DTensor):
        return values
    # Each worker takes its part of what it has: no collective.
    return distribute_tensor(values, like.device_mesh, like.placements, src_data_rank=None)


def sharded_from(part: Tensor, like: Tensor) -> Tensor:
    """The sharded tensor whose parts are those of the workers; `part` where `like` is not one."""
    if not isinstance(like, DTensor):
        return part
    return DTensor.from_local(
        part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
    )


class NetworkShards:
    """A network whose parameters are sharded over the workers.

    Attributes:
        network: as it was given, with parts of the weights.
        parts: this worker's part of each parameter by name, for the optimizer: on the memory of
            the network's own. Parts of small ones may be empty.
    """

    def __init__(self, network: TrainingNetwork, world: World) -> None:
        """Shard `network`, in place, and put it onto this worker's device.

        Args:
            network: with the same weights on every worker, contiguous.
            world: the workers, several.
        """
        self.network = network
        if world.device.type == "cpu":
            return_freed_memory()
        self._whole = _without_weights(network)
        self._share_start(world)
        mesh = init_device_mesh(world.device.type, (world.size,))
        # Gathered in float32, whatever the precision: autocast then rounds what it rounds without
        # sharding. FSDP2's own policy would round norms and scales too.
        for block in blocks_of(network.embedder.backbone.model):
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
        # Stem, last norm, neck and branch stay gathered between forward and backward pass.
        fully_shard(network, mesh=mesh, reshard_after_forward=False)
        self._sharded = dict(network.named_parameters())
        self.parts = {
            name: nn.Parameter(part_of(value), requires_grad=value.requires_grad)
            for name, value in self._sharded.items()
        }

    @torch.no_grad()
    def _share_start(self, world: World) -> None:
        """Give all workers the weights and buffers of the main one."""
        for value in self.network.state_dict().values():
            value.copy_(world.broadcast(value.to(world.device)))

    @contextmanager
    def forward_pass(self) -> Iterator[None]:
        """Context of a forward pass through the network."""
        with warnings.catch_warnings():
            # Of its outputs: nothing changes these in place.
            warnings.filterwarnings("ignore", r"FSDP2-wrapped module \(FSDPTrainingNetwork\)")
            yield

    def take_gradients(self) -> None:
        """Move the gradients of a backward pass from the network to the parts."""
        for part, parameter in zip(self.parts.values(), self._sharded.values(), strict=True):
            assert part.data_ptr() == part_of(parameter).data_ptr(), "FSDP2 has moved its parts"
            part.grad = None if parameter.grad is None else part_of(parameter.grad)
            parameter.grad = None

    def copy_modes(self) -> None:
        """Put each layer of the whole copy in the mode of the network's: training or evaluation."""
        for mine, other in zip(self.network.modules(), self._whole.modules(), strict=True):
            other.training = mine.training

    @contextmanager
    def gathered(self) -> Iterator[TrainingNetwork]:
        """The whole network on each worker, inside the block; entered by all of them together.

        Its weights are copies; buffers are those of the network.
        """
        pairs = list(zip(self._whole.parameters(), self._sharded.values(), strict=True))
        self.copy_modes()
        try:
            for mine, sharded in pairs:
                mine.data = whole_of(sharded)
            yield self._whole
        finally:
            for mine, _ in pairs:
                mine.data = mine.new_empty(0)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Blocks of a timm model, to be gathered one at a time; none where it has no such sequence."""
    found: list[nn.Module] = []
    for name, child in model.named_children():
        if name in _SEQUENCES and isinstance(child, nn.Sequential | nn.ModuleList):
            for element in child:
                if any(True for _ in element.parameters()):
                    found += blocks_of(element) or [element]
    return found


def _without_weights(network: TrainingNetwork) -> TrainingNetwork:
    """A copy whose parameters are empty, and whose buffers are those of `network`."""
    known: dict[int, Tensor] = {id(value): value for value in network.buffers()}
    known |= {
        id(value): nn.Parameter(value.new_empty(0), requires_grad=value.requires_grad)
        for value in network.parameters()
    }
    return copy.deepcopy(network, known)
