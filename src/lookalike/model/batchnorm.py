"""Batch normalisation over the global batch, on any device."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.modules.batchnorm import _BatchNorm

from lookalike.distributed.world import ALONE, World
from lookalike.model.neck import at_least_float32


class _GlobalSum(torch.autograd.Function):
    """The sum over the workers; its gradient is the sum over the workers as well."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        return _GlobalSum.forward(ctx, grad)


def _is_global(norm: _BatchNorm) -> bool:
    """True where `norm` uses the batch of all workers, rather than its running statistics."""
    return norm.training and dist.is_initialized() and dist.get_world_size() > 1


def _global_batch_norm(norm: _BatchNorm, values: Tensor) -> Tensor:
    """`values` (B, C, ...) normalised over all workers' batches; running statistics follow."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    others = [dim for dim in range(values.ndim) if dim != 1]
    shape = [-1] + [1] * (values.ndim - 2)  # of a channel's number beside the values
    x_BC = at_least_float32(values)
    # Two rounds rather than sum and sum of squares: the difference of those cancels.
    count = x_BC.new_tensor([x_BC.numel() / x_BC.shape[1]])
    sums_C1 = _GlobalSum.apply(torch.cat([x_BC.sum(dim=others), count]))  # (C + 1,)
    total = sums_C1[-1].detach()
    mean_C = sums_C1[:-1] / total
    centred = x_BC - mean_C.view(shape)
    var_C = _GlobalSum.apply(centred.square().sum(dim=others)) / total
    with torch.no_grad():
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.add_(1)
        momentum = (
            norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked)
        )
        unbiased_C = var_C * (total / (total - 1).clamp(min=1))
        norm.running_mean.lerp_(mean_C.to(norm.running_mean.dtype), momentum)
        norm.running_var.lerp_(unbiased_C.to(norm.running_var.dtype), momentum)
    out = centred * torch.rsqrt(var_C + norm.eps).view(shape)
    if norm.affine:
        out = out * norm.weight.view(shape) + norm.bias.view(shape)
    return out.to(values.dtype)


class GlobalBatchNorm1d(nn.BatchNorm1d):
    """BatchNorm1d whose statistics in training come from all workers; see GlobalBatchNorm2d."""

    def forward(self, input: Tensor) -> Tensor:
        """The normalised activations, (B, C) or (B, C, L)."""
        return _global_batch_norm(self, input) if _is_global(self) else super().forward(input)


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose statistics in training come from all workers' images.

    torch's SyncBatchNorm does this on CUDA only. Workers may hold different numbers of images.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The normalised activations, (B, C, H, W)."""
        return _global_batch_norm(self, input) if _is_global(self) else super().forward(input)


class GlobalBatchNormAct2d(BatchNormAct2d):  # timm has no types
    """timm's batch norm with its dropout and activation, over the global batch."""

    def forward(self, x: Tensor) -> Tensor:
        """The activations, (B, C, H, W)."""
        if not _is_global(self):
            return super().forward(x)
        return self.act(self.drop(_global_batch_norm(self, x)))


_GLOBAL: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: GlobalBatchNorm1d,
    nn.BatchNorm2d: GlobalBatchNorm2d,
    BatchNormAct2d: GlobalBatchNormAct2d,
}


def synchronise(module: nn.Module, device: torch.device) -> nn.Module:
    """`module` with every batch norm replaced by one over the global batch.

    Parameters and buffers keep their names and are shared with the replaced layers.
    """
    if device.type == "cuda":
        from timm.layers import convert_sync_batchnorm

        return convert_sync_batchnorm(module)
    for child in module.modules():
        if type(child) in _GLOBAL:
            # The class alone changes: the module keeps its state and what timm adds to it.
            child.__class__ = _GLOBAL[type(child)]
    return module


def freeze_statistics(module: nn.Module) -> None:
    """Make every batch norm in `module` use its running statistics, also in training."""
    for child in module.modules():
        if isinstance(child, _BatchNorm):
            child.eval()


@torch.no_grad()
def share_statistics(network: nn.Module, world: World) -> None:
    """Give all workers the running statistics of the main one, which are those that are saved.

    Without `synchronise` each worker has those of its own images since the last broadcast.
    """
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            for values in _statistics(module):
                world.broadcast(values)


def _statistics(norm: _BatchNorm) -> list[Tensor]:
    return [value for value in (norm.running_mean, norm.running_var) if value is not None]


@torch.no_grad()
def measure_statistics(network: nn.Module, batches: Iterable[Tensor], world: World = ALONE) -> None:
    """Replace the running statistics of batch norms in training mode by means over the batches.

    For weights that were not trained as they are, as averages (Izmailov et al., Averaging Weights
    Leads to Wider Optima and Better Generalization, UAI 2018). The mode of the modules stays.
    The batches are those of all workers, as many on each; all workers end with the same means.
    """
    norms = [
        child for child in network.modules() if isinstance(child, _BatchNorm) and child.training
    ]
    if not norms:
        return
    modes = [(child, child.training) for child in network.modules()]
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
    try:
        for images in batches:
            network(images)
        for norm in norms:
            for values in _statistics(norm):
                world.sum(values).div_(world.size)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for child, mode in modes:
            child.training = mode
