"""Losses over the images of a batch on the device against the same in float64 on the CPU."""

import copy

import pytest
import torch

from lookalike.losses import PAIR_LOSSES, create_loss
from lookalike.losses.pairs.batch_comparison import BatchComparison
from lookalike.losses.pairs.proxy_weights import ProxyWeights

DIM, CLASSES = 16, 9


def modules(name):
    """The plain one, and one in blocks that are computed again in the backward pass."""
    if name == "proxy_anchor":
        return [
            ProxyWeights(DIM, CLASSES, create_loss(name), chunk=chunk, init_std=0.5)
            for chunk in (None, 4)
        ]
    return [
        BatchComparison(DIM, create_loss(name), memory=20, block=block) for block in (2**22, 60)
    ]


@pytest.mark.parametrize("name", ["proxy_anchor", *PAIR_LOSSES])
def test_two_steps_equal_float64(device, name):
    generator = torch.Generator().manual_seed(0)
    for module in modules(name):
        exact, module = copy.deepcopy(module).double(), module.to(device)
        for _ in range(2):  # the second one compares with the memory of the first
            classes = torch.arange(24) % (CLASSES - 1)
            embeddings = torch.randn(24, DIM, generator=generator) + torch.eye(DIM)[classes]
            mine = embeddings.to(device).requires_grad_()
            true = embeddings.double().requires_grad_()
            losses = module(mine, classes.to(device)), exact(true, classes)
            for loss in losses:
                loss.backward()
            for each in (module, exact):
                if isinstance(each, BatchComparison):
                    each.end()
            torch.testing.assert_close(losses[0].cpu().double(), losses[1], rtol=1e-4, atol=1e-5)
            error = (mine.grad.cpu().double() - true.grad).norm() / true.grad.norm()
            assert error < 1e-3
        if isinstance(module, ProxyWeights):
            assert module.predict(mine.detach()).tolist() == exact.predict(true).tolist()
