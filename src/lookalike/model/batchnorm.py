"""Batch normalisation over the global batch, on any device."""

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

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
        total = grad.clone()
        dist.all_reduce(total)
        return total


def _global_sum(values: Tensor) -> Tensor:
    return _GlobalSum.apply(values)


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose statistics in training come from all workers' images.

    torch's SyncBatchNorm does this on CUDA only. Workers may hold different numbers of images.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The normalised activations, (B, C, H, W)."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        x_BCHW = at_least_float32(input)
        # Two rounds rather than sum and sum of squares: the difference of those cancels.
        count = x_BCHW.new_tensor([x_BCHW.numel() / x_BCHW.shape[1]])
        sums_C1 = _global_sum(torch.cat([x_BCHW.sum(dim=(0, 2, 3)), count]))  # (C + 1,)
        total = sums_C1[-1].detach()
        mean_C = sums_C1[:-1] / total
        centred = x_BCHW - mean_C[:, None, None]
        var_C = _global_sum(centred.square().sum(dim=(0, 2, 3))) / total
        with torch.no_grad():
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            momentum = (
                self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
            )
            unbiased_C = var_C * (total / (total - 1).clamp(min=1))
            self.running_mean.lerp_(mean_C.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_(unbiased_C.to(self.running_var.dtype), momentum)
        out = centred * torch.rsqrt(var_C + self.eps)[:, None, None]
        if self.affine:
            out = out * self.weight[:, None, None] + self.bias[:, None, None]
        return out.to(input.dtype)


def synchronise(module: nn.Module, device: torch.device) -> nn.Module:
    """`module` with every 2-d batch norm replaced by one over the global batch.

    Parameters and buffers keep their names and are shared with the replaced layers.
    """
    if device.type == "cuda":
        from timm.layers import convert_sync_batchnorm

        return convert_sync_batchnorm(module)
    for name, child in module.named_children():
        if isinstance(child, BatchNormAct2d):
            # timm's fused norm: keep its own module, whose state names the checkpoint uses.
            child.__class__ = _GlobalBatchNormAct2d
        elif type(child) is nn.BatchNorm2d:
            child.__class__ = GlobalBatchNorm2d
        else:
            setattr(module, name, synchronise(child, device))
    return module


class _GlobalBatchNormAct2d(BatchNormAct2d):  # timm has no types
    """timm's BatchNorm + activation over the global batch."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(GlobalBatchNorm2d.forward(self, x)))  # type: ignore[arg-type]


def freeze_statistics(module: nn.Module) -> None:
    """Let every batch norm in `module` use its running statistics, also in training."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.eval()
