"""Memory and operations of a network in a training step, on fake tensors."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from lookalike.data.image_size import ImageSize, height_width
from lookalike.model.batchnorm import freeze_statistics
from lookalike.model.dry_run import fake_copy
from lookalike.model.frozen_features import pooled_features, pooled_width
from lookalike.model.inference import BATCH_SIZE
from lookalike.model.training_network import TrainingNetwork
from lookalike.training.network_shards import blocks_of


@dataclass(frozen=True)
class NetworkProfile:
    """A network in one training step with a batch of `images`. Bytes, unless stated otherwise.

    Attributes:
        images: of the batch.
        backbone, neck, branch: numbers of parameters.
        weights: all parameters and buffers.
        learning: the parameters that learn, in float32: also the size of their gradients.
        averaged: what learns in backbone and neck, and buffers: an average is kept of them.
        activations: kept from the forward pass for the backward pass.
        forward_peak: most that is alive during the forward pass, activations among it.
        backward_peak: most during the backward pass, without the parameters' gradients.
        backward_grown_peak: the same with those gradients, as far as they exist by then.
        flops: floating-point operations of forward and backward pass, products only.
        norm_channels: channels of each batch norm whose statistics may be shared.
        features_peak: most that is alive in the pass that stores the features of a frozen
            backbone; 0 where none are stored.
        blocks: parameters of each block that is gathered at a time where workers share the network.
    """

    images: int
    backbone: int
    neck: int
    branch: int
    weights: int
    learning: int
    averaged: int
    activations: int
    forward_peak: int
    backward_peak: int
    backward_grown_peak: int
    flops: int
    norm_channels: tuple[int, ...]
    features_peak: int = 0
    blocks: tuple[int, ...] = ()


def measure(
    network: TrainingNetwork,
    *,
    images: int,
    image_size: ImageSize,
    precision: torch.dtype = torch.float32,
    frozen: bool = False,
    freeze_batchnorm: bool = False,
    stored: bool = False,
) -> NetworkProfile:
    """Profile of `network`, which is left unchanged.

    Forward and backward pass run on fake tensors, which have shapes and no contents, so that any
    network and batch fit; every storage is counted while it is alive. Workspaces of cuDNN, oneDNN
    and the like are not tensors, and not counted.

    Args:
        network: on the CPU, in the memory format of the run.
        precision: of the autocast region.
        stored: steps take stored features (`lookalike.model.frozen_features`) in place of images.
    """
    network.embedder.preprocess.normalise(torch.zeros(1, 3, 1, 1, dtype=torch.uint8))
    mode = FakeTensorMode(allow_non_fake_inputs=True)  # the constants of the line above
    fake = fake_copy(network, mode).train()
    if frozen:
        fake.embedder.backbone.requires_grad_(False).eval()
    elif freeze_batchnorm:
        freeze_statistics(fake.embedder.backbone)
    count = FlopCounterMode(display=False, custom_mapping=_OPERATIONS)
    features_peak = 0
    if stored:
        with mode, _Living(fake) as living:
            pooled_features(fake.embedder, _pixels(BATCH_SIZE, image_size), ("avg",), precision)
            features_peak = living.peak
    with mode, _Living(fake) as living, count:
        if stored:
            inputs = torch.empty(
                images, len(fake.poolings), pooled_width(fake.embedder.backbone, fake.poolings)
            )
        else:
            inputs = _pixels(images, image_size)
        living.forget(inputs)
        narrow = precision != torch.float32
        with torch.autocast("cpu", dtype=precision) if narrow else nullcontext():
            outputs = [output for output in fake(inputs) if output is not None]
        activations, forward_peak = living.bytes, living.peak
        living.peak = 0
        torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
    return NetworkProfile(
        images=images,
        backbone=_count(network.embedder.backbone),
        neck=_count(network.embedder.neck),
        branch=0 if network.branch is None else _count(network.branch),
        weights=_bytes(network),
        learning=sum(p.numel() * 4 for p in fake.parameters() if p.requires_grad),
        averaged=sum(
            tensor.nbytes
            for tensor in [*fake.embedder.parameters(), *fake.embedder.buffers()]
            if tensor.requires_grad or not isinstance(tensor, nn.Parameter)
        ),
        activations=activations,
        forward_peak=forward_peak,
        backward_peak=living.peak,
        backward_grown_peak=living.grown_peak,
        flops=count.get_total_flops(),
        norm_channels=tuple(
            module.num_features
            for module in fake.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
        ),
        features_peak=features_peak,
        blocks=tuple(_bytes(block) for block in blocks_of(network.embedder.backbone.model)),
    )


def _convolution_backward(
    grad_shape: Sequence[int],
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    *options: Any,
    out_shape: Any = None,
    **_: Any,
) -> int:
    """Operations of a convolution's backward pass: once the forward pass's for each gradient.

    torch counts those of the weight as if every channel met every other, hundreds of times too
    many for depthwise convolutions.
    """
    transposed, wanted = options[4], options[-1]
    places = (x_shape if transposed else grad_shape)[2:]
    forward = 2 * x_shape[0] * math.prod(places) * math.prod(weight_shape)
    return forward * (int(wanted[0]) + int(wanted[1]))


def _attention(q_shape: Sequence[int], k_shape: Sequence[int], *_: Any, **__: Any) -> int:
    """Operations of attention (B, heads, N, d): the products with the keys and with the values."""
    return 4 * math.prod(q_shape) * k_shape[2]


def _attention_backward(
    _: Sequence[int], q_shape: Sequence[int], k_shape: Sequence[int], *__: Any, **___: Any
) -> int:
    """Operations of its backward pass: the first product again, and two for each gradient."""
    return 10 * math.prod(q_shape) * k_shape[2]


_OPERATIONS = {
    torch.ops.aten.convolution_backward: _convolution_backward,
    # torch counts those of other devices alone.
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def _pixels(images: int, size: ImageSize) -> Tensor:
    pixels = torch.empty(images, 3, *height_width(size), dtype=torch.uint8)
    return pixels.contiguous(memory_format=torch.channels_last)


class _Living(TorchDispatchMode):
    """Counter of the bytes of all live storages but those of a module and its gradients.

    Attributes:
        bytes: live now.
        peak: most of them since it was last set to 0.
        grown_peak: most of them with gradients of parameters, ever.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.bytes = self.peak = self.grown_peak = self._grown = 0
        self._sizes: dict[int, int] = {}
        self._ignored: list[Any] = []  # kept alive, so that no other gets their address
        for tensor in [*module.parameters(), *module.buffers()]:
            self.forget(tensor)
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._settle)

    def forget(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self.bytes -= self._sizes.get(storage._cdata, 0)
        self._sizes[storage._cdata] = 0
        self._ignored.append(storage)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self.bytes += storage.nbytes()
        self.peak = max(self.peak, self.bytes)
        self.grown_peak = max(self.grown_peak, self.bytes + self._grown)
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.bytes -= self._sizes.pop(key, 0)

    def _settle(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self.forget(parameter.grad)
        self._grown += parameter.grad.untyped_storage().nbytes()


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in [*module.parameters(), *module.buffers()])
