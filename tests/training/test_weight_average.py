"""Moving average of weights against torch's AveragedModel."""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from lookalike.training.weight_average import Ema


def network() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def change(module: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    module(torch.randn(6, 3, generator=generator))  # moves the running statistics


def test_average_is_that_of_torch_with_a_rising_decay():
    module = network()
    ours = Ema(module, decay=0.5)
    # torch counts the copy of the first weights: n is the step counted from 1.
    theirs = AveragedModel(
        module,
        avg_fn=lambda old, new, n: torch.lerp(new, old, min(0.5, float(n) / (9 + float(n)))),
    )
    theirs.update_parameters(module)
    for step in range(20):
        change(module, step)
        ours.update(step)
        theirs.update_parameters(module)
    for name, value in theirs.module.named_parameters():
        torch.testing.assert_close(ours.average[name], value)
    assert int(ours.average["1.num_batches_tracked"]) == 20


def test_average_is_applied_for_the_block_alone():
    module = network()
    ours = Ema(module, decay=0.9)
    first = {name: value.clone() for name, value in module.state_dict().items()}
    change(module, 0)
    own = {name: value.clone() for name, value in module.state_dict().items()}
    with ours.applied():
        assert all(torch.equal(value, first[name]) for name, value in module.state_dict().items())
    assert all(torch.equal(value, own[name]) for name, value in module.state_dict().items())
    other = Ema(module, decay=0.9)
    other.load(ours.average)
    assert all(torch.equal(value, first[name]) for name, value in other.average.items())
