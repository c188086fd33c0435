"""Which implementation of the epilogues a device gets."""

from collections.abc import Callable

import torch

from lookalike.losses import epilogue


def epilogues(device: torch.device) -> tuple[Callable[..., None], Callable[..., torch.Tensor]]:
    """`add_chunk` and `logit_gradient` for tensors on `device`."""
    return epilogue.add_chunk, epilogue.logit_gradient
