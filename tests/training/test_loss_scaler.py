"""Loss scale against torch's GradScaler."""

import torch

from lookalike.training.loss_scaler import LossScaler


def test_scale_follows_the_rule_of_torch():
    ours = LossScaler(enabled=True)
    theirs = torch.amp.GradScaler("cpu", growth_interval=LossScaler.GROW_AFTER)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    overflows = {3, 4, 2500}
    for step in range(4600):
        theirs.scale(torch.zeros(1))
        weight.grad = torch.full((1,), float("inf") if step in overflows else 0.0)
        theirs.step(optimizer)
        theirs.update()
        ours.update(finite=step not in overflows)
        assert ours.scale == theirs.get_scale(), step


def test_scale_has_a_lower_bound_and_is_one_if_disabled():
    low, off = LossScaler(enabled=True, scale=2.0**-9), LossScaler(enabled=False)
    for _ in range(3):
        low.update(finite=False)
        off.update(finite=False)
    assert (low.scale, off.scale) == (LossScaler.SMALLEST, 1.0)
