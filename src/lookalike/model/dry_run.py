"""Dry run of a new network: one image shows failures, unused parameters and unfit batch norms."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.batchnorm import _BatchNorm

from lookalike.data.image_size import ImageSize, height_width

if TYPE_CHECKING:
    from lookalike.model.training_network import TrainingNetwork

M = TypeVar("M", bound=nn.Module)

_COMPUTED = 512 * 512
"""Pixels up to which the pass is computed. Beyond, attention might need more memory than there is:
fake tensors go through a copy instead."""


def dry_run(network: nn.Module, size: ImageSize, dtype: torch.dtype = torch.float32) -> Any:
    """Outputs of `network` for one black image (1, 3, H, W), in evaluation mode.

    Its weights, buffers and mode, and the random state, stay as they are. Outputs for large images
    are fake tensors, with shapes and no contents.
    """
    return _pass(network, size, dtype)[1]


def exclude_unused(network: TrainingNetwork, size: ImageSize) -> list[str]:
    """Turn off the gradients of parameters that no output depends on, and return their names.

    Many timm models keep layers of their classifier that `forward_features` does not use, and a
    pooling may leave out a class token. DistributedDataParallel would wait for their gradients
    for ever. They stay in the state, so that saved weights keep their names.
    """
    # Its constants are cached, and must not be fake tensors.
    network.embedder.preprocess.normalise(torch.zeros(1, 3, 1, 1, dtype=torch.uint8))
    unused = unused_parameters(network, size, torch.uint8)
    for name in unused:
        network.get_parameter(name).requires_grad_(False)
    return unused


def unused_parameters(
    network: nn.Module, size: ImageSize, dtype: torch.dtype = torch.float32
) -> list[str]:
    """Names of the parameters that none of the outputs, tensors or None, depends on."""
    tried, outputs = _pass(network, size, dtype)
    used = _reached([output for output in outputs if output is not None])
    return [name for name, value in tried.named_parameters() if id(value) not in used]


def single_value_norms(
    network: nn.Module, size: ImageSize, dtype: torch.dtype = torch.float32
) -> list[str]:
    """Names of the batch norms that have one value of each channel for one image.

    A variance needs two: in training torch refuses such a norm for a batch of one image.
    """
    found: dict[str, None] = {}

    def note(name: str, values: Tensor, *_: Any) -> None:
        if values.numel() == values.shape[1]:
            found[name] = None

    hooks = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: note(name, *inputs))
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm)
    ]
    try:
        _pass(network, size, dtype)
    finally:
        for hook in hooks:
            hook.remove()
    return list(found)


def fake_copy(network: M, mode: FakeTensorMode) -> M:
    """A copy whose parameters and buffers are fake tensors."""
    known = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(tensor): mode.from_tensor(tensor) for tensor in known})


def sharing_copy(network: M) -> M:
    """A copy on the same memory, to change layers or what learns without changing `network`."""
    known: dict[int, Tensor] = {id(value): value.detach() for value in network.buffers()}
    known |= {
        id(value): nn.Parameter(value.detach(), requires_grad=value.requires_grad)
        for value in network.parameters()
    }
    return copy.deepcopy(network, known)


def _pass(network: nn.Module, size: ImageSize, dtype: torch.dtype) -> tuple[nn.Module, Any]:
    # The module that was called, the network or a copy of it, and its outputs.
    height, width = height_width(size)
    was_training = network.training
    try:
        with torch.random.fork_rng(devices=[]):
            if height * width <= _COMPUTED:
                return network, network.eval()(torch.zeros(1, 3, height, width, dtype=dtype))
            mode = FakeTensorMode(allow_non_fake_inputs=True)
            tried = fake_copy(network, mode).eval()
            with mode:
                return tried, tried(torch.empty(1, 3, height, width, dtype=dtype))
    finally:
        network.train(was_training)


def _reached(outputs: list[Tensor]) -> set[int]:
    """The ids of the parameters that the graph of `outputs` leads to."""
    found, seen = set(), set()
    waiting = [output.grad_fn for output in outputs]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):  # where a gradient would be accumulated
            found.add(id(node.variable))
        waiting += [following for following, _ in node.next_functions]
    return found
