"""Which implementation of the epilogues and of the update a device gets.

Triton's where the device is a CUDA one that Triton knows, Triton is installed, and the kernels are
seen to compute there what torch computes; else plain torch. The environment variable
LOOKALIKE_TRITON, read here alone, says otherwise: 0 means plain torch everywhere, 1 means Triton
everywhere, untried, which on the CPU needs its interpreter (TRITON_INTERPRET=1) and is for tests.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lookalike.errors import ConfigError
from lookalike.losses import chunk_softmax
from lookalike.losses.chunk_softmax import LogitBend, RowSums

_log = logging.getLogger(__name__)

_OLDEST = (8, 0)  # compute capability that Triton supports


def uses_triton(device: torch.device) -> bool:
    """Whether tensors on `device` go to the Triton kernels.

    Raises:
        ConfigError: LOOKALIKE_TRITON has another value, or asks for what cannot be.
    """
    wish = os.environ.get("LOOKALIKE_TRITON", "")
    if wish not in ("", "0", "1"):
        raise ConfigError(
            f"LOOKALIKE_TRITON is {wish!r}; it is 0 (never), 1 (always) or unset (by device)"
        )
    if wish == "1":
        if not _installed():
            raise ConfigError("LOOKALIKE_TRITON is 1, but triton is not installed; unset it")
        if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
            raise ConfigError(
                f"LOOKALIKE_TRITON is 1, but Triton does not run on {device.type}; unset it, or "
                "set TRITON_INTERPRET=1 (slow, for tests)"
            )
        return True
    if wish == "0" or device.type != "cuda" or not _installed():
        return False
    return _works(device)


@functools.cache
def _works(device: torch.device) -> bool:
    """Whether Triton's kernels are right on a CUDA device; if not, says so."""
    if torch.cuda.get_device_capability(device) < _OLDEST:
        return False
    # Not above: not every platform has Triton.
    from lookalike.losses import triton_check

    fault = triton_check.fault(device)
    if fault is not None:
        _log.warning(
            "Triton's kernels of the class head do not work on %s (%s); using PyTorch's "
            "operations, which are slower. LOOKALIKE_TRITON=1 shows the error, LOOKALIKE_TRITON=0 "
            "leaves Triton out", device, fault,
        )  # fmt: skip
    return fault is None


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None  # looks at the disk


def has_bf16_products(device: torch.device) -> bool:
    """Whether `device` multiplies matrices in bfloat16 faster than in float32.

    A CPU does with AMX only: one with AVX-512's bfloat16 instructions alone made 156 GFLOP/s of
    them, and 265 in float32.
    """
    return device.type == "cuda" or bool(torch.cpu._is_amx_tile_supported())


class Epilogues(NamedTuple):
    """The functions of `lookalike.losses.chunk_softmax`, for some device."""

    add_chunk: Callable[..., Tensor]
    add_shares: Callable[..., Tensor]
    logit_gradient: Callable[..., Tensor]


def epilogues(device: torch.device) -> Epilogues:
    """`add_chunk`, `add_shares` and `logit_gradient` for tensors on `device`.

    Triton's are for float32: logits of another dtype go to those in torch on every device.
    """
    if uses_triton(device):
        return Epilogues(_add_chunk, _add_shares, _logit_gradient)
    return Epilogues(
        chunk_softmax.add_chunk, chunk_softmax.add_shares, chunk_softmax.logit_gradient
    )


def row_updates(device: torch.device) -> ModuleType | None:
    """`lookalike.losses.triton_update` where `device` takes it, else None."""
    if not uses_triton(device):
        return None
    from lookalike.losses import triton_update

    return triton_update


def _add_chunk(sums: RowSums, z: Tensor, *arguments: Tensor | LogitBend | None) -> Tensor:
    return _module(z).add_chunk(sums, z, *arguments)


def _add_shares(
    sums: RowSums, z: Tensor, *arguments: Tensor | LogitBend | None, **more: Tensor | None
) -> Tensor:
    return _module(z).add_shares(sums, z, *arguments, **more)


def _logit_gradient(z: Tensor, *arguments: Tensor | LogitBend | None, **more: Tensor) -> Tensor:
    return _module(z).logit_gradient(z, *arguments, **more)


def _module(z: Tensor) -> Any:
    from lookalike.losses import triton_epilogue

    return triton_epilogue if z.dtype == torch.float32 else chunk_softmax
