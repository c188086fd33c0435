"""A CUDA device that is not there: tensors that say they are on it, and lie on the CPU.

What no CPU can show is an operation between tensors of two devices. Here each operation looks at
where its tensors say they are, and raises what torch raises. Numbers come from the CPU's kernels.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

DEVICE = torch.device("cuda", 0)
_aten = torch.ops.aten
# Operations that take tensors of both: copies, and indices from the host.
_COPIES = {_aten.copy_.default, _aten._to_copy.default, _aten.set_.source_Tensor}
_BY_INDEX = {
    _aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default,
    _aten._index_put_impl_.default, _aten._unsafe_index.Tensor,
}  # fmt: skip
_HEALTH = next(name for name in dir(torch.optim.Optimizer) if "health_check" in name)
_TOGETHER = {_aten.cat.default, _aten.cat.out, _aten.stack.default}


class Pretended(torch.Tensor):
    """A tensor of the device; its numbers are in `inner`."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner):
        # Inside it is of the device "meta", whose gradients the CPU's thread computes.
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, layout=inner.layout, device="meta",
        )  # fmt: skip
        made.inner = inner
        return made

    @property
    def device(self):
        return DEVICE

    @property
    def is_cuda(self):
        return True

    @property
    def is_meta(self):
        return False

    def data_ptr(self):
        return self.inner.data_ptr()

    def new_tensor(self, data, *, dtype=None):
        return torch.tensor(data, dtype=dtype or self.dtype).to(DEVICE)

    def tolist(self):
        return self.inner.tolist()

    def numpy(self, **more):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def __repr__(self):
        return f"Pretended({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return dispatched(func, args, kwargs or {})


def dispatched(func, args, kwargs):
    kwargs = dict(kwargs)
    kwargs.pop("pin_memory", None)
    wanted = kwargs.get("device")
    there = wanted is not None and torch.device(wanted).type in ("cuda", "meta")
    if there:
        kwargs["device"] = torch.device("cpu")
    if "_fused" in str(func) and isinstance(args[0][0], Pretended):
        with torch.utils._python_dispatch._disable_current_modes():
            _align(*args[:4])
    wrappers, plain = {}, []

    def unwrap(value):
        if isinstance(value, Pretended):
            wrappers[id(value.inner)] = value
            return value.inner
        if isinstance(value, torch.Tensor):
            plain.append(value)
        return value

    inner_args, inner_kwargs = tree_map(unwrap, (args, kwargs))
    if wrappers and plain and func not in _COPIES:
        _check(func, args, plain)
    with torch.utils._python_dispatch._disable_current_modes():
        if func is _aten.mm.dtype_out:
            left, right, dtype = inner_args
            out = inner_kwargs["out"].copy_(left.to(dtype) @ right.to(dtype))
        elif func is _aten.mm.dtype:
            left, right, dtype = inner_args
            out = left.to(dtype) @ right.to(dtype)
        else:
            out = func(*inner_args, **inner_kwargs)
    if func is _aten.copy_.default:
        return args[0]
    here = wanted is not None and not there
    if here or not (there or wrappers):
        return out

    def wrap(value):
        if not isinstance(value, torch.Tensor):
            return value
        return wrappers.get(id(value)) if id(value) in wrappers else Pretended(value)

    return tree_map(wrap, out)


def _align(parameters, *others):
    """Gradients and states in their parameters' memory order.

    Autograd sees to it that gradients have it, but not for subclasses of tensors.
    """
    for tensors in others:
        for parameter, tensor in zip(parameters, tensors, strict=False):
            own, inner = parameter.inner, tensor.inner
            if inner.shape == own.shape and inner.stride() != own.stride():
                tensor.inner = torch.empty_like(own).copy_(inner)


def _check(func, args, plain):
    """Raise what torch raises where tensors of the device and of the host meet."""
    host = [tensor for tensor in plain if tensor.dim() > 0 or func in _TOGETHER]
    if func in _BY_INDEX and isinstance(args[0], Pretended):
        host = [tensor for tensor in host if not any(tensor is index for index in args[1])]
    if host:
        shapes = [tuple(tensor.shape) for tensor in host]
        raise RuntimeError(f"{func}: tensors on cuda:0, and on the CPU one of {shapes}")


class _Generator(torch.Generator):
    """One of the host, whatever device it is asked for."""

    def __new__(cls, device="cpu"):
        return super().__new__(cls, "cpu")


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return dispatched(func, args, kwargs or {})


@contextmanager
def pretended_device():
    """The device, inside the block; of Hopper's capability, without Triton."""
    cuda = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_properties": lambda device=None: SimpleNamespace(
            total_memory=10**11, major=9, minor=0
        ),
        "get_device_name": lambda device=None: "a pretended GPU",
        "is_bf16_supported": lambda including_emulation=True: True,
        "max_memory_allocated": lambda device=None: 0,
        "synchronize": lambda device=None: None,
        "mem_get_info": lambda device=None: (10**11, 10**11),
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: None,
        "manual_seed_all": lambda seed: None,
        "_lazy_init": lambda: None,
    }
    with ExitStack() as stack:
        for name, function in cuda.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, function))
        stack.enter_context(mock.patch.object(torch, "Generator", _Generator))
        stack.enter_context(mock.patch.object(torch.optim.Optimizer, _HEALTH))
        stack.enter_context(mock.patch.dict("os.environ", {"LOOKALIKE_TRITON": "0"}))
        # torch.tensor(..., device=) makes its tensor on the host, and copies it by `to`.
        torch._C._set_only_lift_cpu_tensors(True)
        stack.callback(torch._C._set_only_lift_cpu_tensors, False)
        stack.enter_context(_Mode())
        yield DEVICE
