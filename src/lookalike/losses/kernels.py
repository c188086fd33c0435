"""Choice of the kernels of softmax and update for a device, and the test that they pass first.

Triton's where the device is a CUDA one that Triton supports, Triton is installed, and its kernels
compute there what torch computes; else plain torch. The environment variable LOOKALIKE_TRITON
overrides this: 0 means plain torch everywhere, 1 means Triton everywhere, untested, which on the
CPU needs its interpreter (TRITON_INTERPRET=1) and is for tests.

Triton is imported where it is used: not every platform has it.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
from types import ModuleType

import torch
from torch import Tensor

from lookalike.errors import ConfigError
from lookalike.losses import chunk_softmax
from lookalike.losses.chunk_softmax import LogitModulation, RowSums

_log = logging.getLogger(__name__)

_OLDEST = (8, 0)  # compute capability that Triton supports


def uses_triton(device: torch.device) -> bool:
    """True where tensors on `device` go to the Triton kernels.

    Raises:
        ConfigError: LOOKALIKE_TRITON has another value, or cannot be fulfilled.
    """
    asked = os.environ.get("LOOKALIKE_TRITON", "")
    if asked not in ("", "0", "1"):
        raise ConfigError(
            f"LOOKALIKE_TRITON is {asked!r}; it is 0 (never), 1 (always) or unset (by device)"
        )
    if asked == "1":
        if not _installed():
            raise ConfigError("LOOKALIKE_TRITON is 1, but triton is not installed; unset it")
        if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
            raise ConfigError(
                f"LOOKALIKE_TRITON is 1, but Triton does not run on {device.type}; unset it, or "
                "set TRITON_INTERPRET=1 (slow, for tests)"
            )
        return True
    if asked == "0" or device.type != "cuda" or not _installed():
        return False
    return passes_test(device)


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None  # looks at the disk


def has_bf16_products(device: torch.device) -> bool:
    """True where `device` multiplies matrices in bfloat16 faster than in float32.

    A CPU does with AMX only: one with AVX-512's bfloat16 instructions alone made 156 GFLOP/s of
    them, and 265 in float32.
    """
    return device.type == "cuda" or bool(torch.cpu._is_amx_tile_supported())


def softmax_kernels(z: Tensor) -> ModuleType:
    """The module with `add_chunk`, `add_shares` and `logit_gradient` for logits like `z`.

    Triton's are for float32: other dtypes go to those in torch on every device.
    """
    if not uses_triton(z.device) or z.dtype != torch.float32:
        return chunk_softmax
    from lookalike.losses import triton_softmax

    return triton_softmax


def update_kernels(device: torch.device) -> ModuleType | None:
    """`lookalike.losses.triton_update` where `device` takes it, else None."""
    if not uses_triton(device):
        return None
    from lookalike.losses import triton_update

    return triton_update


@functools.cache
def passes_test(device: torch.device) -> bool:
    """True where Triton's kernels compute on a CUDA device what PyTorch computes; warns if not.

    A compiler may fail on a driver or an architecture that is untested, and a run should not
    end for that: the kernels are tried once, on small numbers, before their first use.
    """
    if torch.cuda.get_device_capability(device) < _OLDEST:
        return False
    found = fault(device)
    if found is not None:
        _log.warning(
            "Triton's kernels of the class head do not work on %s (%s); using PyTorch's "
            "operations, which are slower. LOOKALIKE_TRITON=1 shows the error, LOOKALIKE_TRITON=0 "
            "leaves Triton out", device, found,
        )  # fmt: skip
    return found is None


def fault(device: torch.device) -> str | None:
    """The first error of Triton's kernels on `device`, in a line; None if there is none."""
    try:
        with torch.no_grad():
            _test_softmax(device)
            _test_updates(device)
    except Exception as error:  # of a compiler, a driver or a comparison
        lines = [line for line in str(error).splitlines() if line.strip()]
        return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
    return None


def _test_softmax(device: torch.device) -> None:
    from lookalike.losses import triton_softmax

    modules = (chunk_softmax, triton_softmax)
    draw = _Numbers(device)
    z, column = draw(5, 700) * 20, torch.tensor([0, 699, -1, 700, 13], device=device)
    inverse = 1 + draw(700) / 1000
    some = LogitModulation(draw(5), draw(5) / 99 + 1, draw(5) / 999, draw(5) + 50)
    for modulation in (None, some):
        both = [RowSums.empty(z, True) for _ in range(2)]
        for module, sums in zip(modules, both, strict=True):
            module.add_chunk(sums, z.clone(), column, modulation)
        _near(both[1].lse(), both[0].lse())
        shares = [z * inverse for _ in range(2)]
        for module, sums, share in zip(modules, both, shares, strict=True):
            module.add_shares(sums, share, column, modulation, share, inverse=inverse)
        _near(both[1].lse(), both[0].lse())
        _near(shares[1], shares[0])
        gradients = []
        for module in modules:
            out, along = torch.empty_like(z), torch.empty_like(z[0])
            module.logit_gradient(
                z.clone(), both[0].lse(), z[:, 0], None, z[:, 1], column, modulation, out,
                inverse=inverse, along=along,
            )  # fmt: skip
            gradients.append((out, along))
        for mine, true in zip(gradients[1], gradients[0], strict=True):
            _near(mine, true)


def _test_updates(device: torch.device) -> None:
    from lookalike.losses import triton_update

    draw = _Numbers(device)
    index = torch.tensor([3, 0], device=device)
    for dtype, error in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        weight, first, gradient = draw(4, 70).to(dtype), draw(4, 70).to(dtype), draw(2, 70)
        second = draw(4, 70).square().to(dtype)
        # SGD, of rows by number: momentum 0.9, weight decay 0.1, learning rate 0.5.
        change = gradient + 0.1 * weight[index].float() + 0.9 * first[index].float()
        stepped, buffer = weight.clone(), first.clone()
        triton_update.sgd_rows(
            stepped, buffer, gradient, index, lr=0.5, momentum=0.9, weight_decay=0.1, unscale=1.0,
            seed=1, step=0,
        )  # fmt: skip
        _near(stepped[index], weight[index].float() - 0.5 * change, error)
        _near(buffer[index], change, error)
        # AdamW's second step, of a range of rows.
        rows = slice(1, 3)
        mean = 0.9 * first[rows].float() + 0.1 * gradient
        square = 0.99 * second[rows].float() + 0.01 * gradient * gradient
        moved = (mean / (1 - 0.9**2)) / ((square / (1 - 0.99**2)).sqrt() + 1e-8)
        stepped, one, two = weight.clone(), first.clone(), second.clone()
        triton_update.adamw_rows(
            stepped, one, two, gradient, rows, lr=0.5, betas=(0.9, 0.99), eps=1e-8,
            weight_decay=0.0, unscale=1.0, seed=1, step=1,
        )  # fmt: skip
        _near(stepped[rows], weight[rows].float() - 0.5 * moved, error)
        _near(one[rows], mean, error)
        _near(two[rows], square, error)


class _Numbers:
    """Normal numbers that are the same on every device."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.generator = device, torch.Generator().manual_seed(1)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator).to(self.device)


def _near(mine: Tensor, true: Tensor, error: float = 1e-4) -> None:
    wrong = float((mine.double() - true.double()).norm() / true.double().norm())
    if not wrong <= error:  # NaN is not
        raise ArithmeticError(f"a result differs from PyTorch's by {wrong:.1e}")
