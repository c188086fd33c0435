"""Operations on gradients against torch's own."""

import pytest
import torch
from torch import nn

from lookalike.training.gradients import all_finite, scale_gradients, squared_norm


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    found = [nn.Parameter(torch.zeros(shape)) for shape in ((2, 3), (4,), (1,))]
    for each in found[:2]:  # the third has no gradient
        each.grad = torch.randn(each.shape, generator=generator)
    return found


def test_norm_and_scale():
    some = parameters()
    norm = torch.nn.utils.get_total_norm([p.grad for p in some if p.grad is not None])
    assert squared_norm(some).sqrt() == pytest.approx(float(norm), rel=1e-6)
    before = [p.grad.clone() for p in some[:2]]
    scale_gradients(some, 0.25)
    for parameter, old in zip(some[:2], before, strict=True):
        torch.testing.assert_close(parameter.grad, old * 0.25)
    assert some[2].grad is None
    assert squared_norm(some[2:]) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_single_value_that_is_not_finite_is_found(value):
    good = [torch.ones(3), torch.ones(2, 2, dtype=torch.bfloat16), torch.tensor([7]), torch.ones(0)]
    assert all_finite(good)
    bad = torch.ones(5)
    bad[4] = value
    assert not all_finite([*good, bad])
