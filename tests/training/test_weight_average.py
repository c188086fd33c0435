"""Averages of weights against torch's AveragedModel."""

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import lookalike
from lookalike.training.weight_average import WeightAverage, resumed_start


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
    ours = WeightAverage(module, decay=0.5)
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
        torch.testing.assert_close(ours.values[name], value)
    assert int(ours.values["1.num_batches_tracked"]) == 20


def test_average_is_applied_for_the_block_alone():
    module = network()
    ours = WeightAverage(module, decay=0.9)
    first = {name: value.clone() for name, value in module.state_dict().items()}
    change(module, 0)
    own = {name: value.clone() for name, value in module.state_dict().items()}
    with ours.applied():
        assert all(torch.equal(value, first[name]) for name, value in module.state_dict().items())
    assert all(torch.equal(value, own[name]) for name, value in module.state_dict().items())
    other = WeightAverage(module, decay=0.9)
    other.load(ours.values)
    assert all(torch.equal(value, first[name]) for name, value in other.values.items())


def test_equal_weights_over_the_last_steps_are_those_of_torch():
    module = network()
    ours = WeightAverage(module)
    ours.start = 7
    theirs = AveragedModel(module, use_buffers=True)
    for step in range(20):
        change(module, step)
        ours.update(step)
        if step < ours.start:
            assert all(torch.equal(ours.values[n], v) for n, v in module.state_dict().items())
        else:
            theirs.update_parameters(module)
    for name, value in theirs.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(ours.values[name], value)


def test_a_resumed_average_begins_as_near_to_the_wanted_step_as_it_can():
    assert resumed_start(70, 50, 70) == 70  # not begun yet
    assert resumed_start(70, 90, 70) == 70  # the same length
    assert resumed_start(160, 90, 70) == 160  # longer: it begins anew
    assert resumed_start(72, 90, 70) == 70
    assert resumed_start(88, 90, 70) == 90
    assert resumed_start(80, 90, 160) == 90  # shorter, and it had not begun
    assert resumed_start(60, 90, 70) == 70
    assert resumed_start(60, 90, None) == 90


@pytest.mark.parametrize(("steps", "first"), [(7, 3), (8, 3), (10, 6), (16, 8)])
def test_average_of_a_run_resumed_with_another_length(shapes, tmp_path, caplog, steps, first):
    """Half of the steps are averaged: of six, those from the fourth on."""
    wanted = {
        "train": shapes / "train.txt", "output": tmp_path / "run", "backbone": "test_resnet",
        "pretrained": False, "image_size": 32, "embedding_dim": 8, "batch_size": 8,
        "device": "cpu", "threads": 1, "recipe": "component", "report": False, "lr": 0.05,
        "epochs": 4, "average_last": 0.5, "checkpoint_every_steps": 1, "keep_checkpoints": 20,
    }  # fmt: skip
    lookalike.train(**wanted, max_steps=6)
    run = lookalike.train(**wanted, max_steps=steps, resume=True)

    def saved(step, name):
        return safetensors.torch.load_file(run.checkpoints / f"step-{step:08d}" / name)

    single = [saved(step, "network.safetensors") for step in range(first + 1, steps + 1)]
    for name, value in saved(steps, "ema.safetensors").items():
        if value.is_floating_point():
            mean = torch.stack([each[f"embedder.{name}"] for each in single]).mean(0)
            torch.testing.assert_close(value, mean, rtol=1e-4, atol=1e-6)
    stated = steps - round(steps / 2)
    said = f"is of the steps from {first + 1} on, and not from {stated + 1}"
    assert (said in caplog.text) == (first != stated)
    assert ("train.average_last: the" in caplog.text) == (first != stated)


def test_frozen_weights_are_not_kept_twice():
    module = network()
    module[0].weight.requires_grad_(False)
    ours = WeightAverage(module, decay=0.9)
    assert "0.weight" not in ours.values
    before = module[0].weight.clone()
    with ours.applied():
        assert torch.equal(module[0].weight, before)
    whole = WeightAverage(network(), decay=0.9)
    whole.load(ours.values)  # of a run that froze it
    assert torch.equal(whole.values["0.weight"], before)
