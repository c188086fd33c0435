"""Learning-rate schedule against torch's schedulers, and the factors of groups."""

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from lookalike.losses import create_loss
from lookalike.losses.class_weights import HeadOptions
from lookalike.losses.head import Head
from lookalike.losses.head_update import UpdateRule
from lookalike.training.learning_rate import LearningRateSchedule, set_lr


@pytest.mark.parametrize(("asked", "warmup"), [(7, 7), (100, 20)], ids=["as asked", "a tenth"])
def test_linear_rise_and_one_cosine_are_those_of_torch(asked, warmup):
    steps, lr, low = 200, 0.03, 0.002
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    rise = LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
    fall = CosineAnnealingLR(optimizer, steps - warmup, eta_min=low)
    theirs = SequentialLR(optimizer, [rise, fall], milestones=[warmup])
    expected = []
    for _ in range(steps):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    ours = LearningRateSchedule(lr=lr, total_steps=steps, warmup_steps=asked, min_lr=low)
    assert [ours.at(step) for step in range(steps)] == pytest.approx(expected, rel=1e-9)


def test_the_constant_schedule_rises_and_stays():
    ours = LearningRateSchedule(
        lr=0.4, total_steps=100, warmup_steps=3, min_lr=0.1, kind="constant"
    )
    assert [ours.at(step) for step in (0, 1, 2, 3, 50, 99)] == pytest.approx(
        [0.1, 0.2, 0.3, 0.4, 0.4, 0.4]
    )


def test_a_rate_below_the_lowest_stays_the_rate():
    ours = LearningRateSchedule(lr=1e-7, total_steps=10, min_lr=1e-6)
    assert [ours.at(step) for step in (0, 9, 20)] == [1e-7] * 3


def test_groups_and_fused_heads_get_the_rate_by_their_factors():
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([{"params": [weight], "lr_factor": 0.1}], lr=0.0)
    update = Head(
        4, 3, create_loss("softmax"), HeadOptions(update=UpdateRule("sgd", lr_factor=10.0))
    ).update
    set_lr(optimizer, 0.5, [update])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    assert update.lr == pytest.approx(5.0)
