"""Training steps on the device: precisions, the loss scale, steps that are left out."""

import os

import pytest
import torch

from lookalike.data.loading.batch import Batch
from lookalike.distributed.world import World
from lookalike.losses import create_loss
from lookalike.losses.class_weights import HeadOptions
from lookalike.losses.head import Head
from lookalike.losses.head_update import UpdateRule
from lookalike.model.batchnorm import synchronise
from lookalike.model.embedder import Embedder
from lookalike.model.training_network import ClassificationBranch, TrainingNetwork
from lookalike.training.checkpoint import Trained
from lookalike.training.learning_rate import set_lr
from lookalike.training.loss_scaler import LossScaler
from lookalike.training.optimizer import create_optimizer, parameter_groups
from lookalike.training.step import TrainStep, repeatable
from lookalike.training.weight_average import WeightAverage

PRETEND = os.environ.get("LOOKALIKE_CUDA_TESTS") == "pretend"
DIM, CLASSES, SIZE = 16, 40, 32


def make_batch(count=8):
    generator = torch.Generator().manual_seed(1)
    shape = (count, SIZE, SIZE, 3)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    classes = torch.randint(0, CLASSES, (count,), generator=generator)
    return Batch(images.permute(0, 3, 1, 2), classes, torch.arange(count))


def make_step(
    world, precision=torch.float32, *, update=None, backbone="test_resnet", ema=False, accumulate=1
):
    """A step of a small network with both heads, the same weights each time."""
    torch.manual_seed(0)
    embedder = Embedder.create(
        backbone, pretrained=False, image_size=SIZE, embedding_dim=DIM, pooling="gem+avg"
    )
    branch = ClassificationBranch(embedder.backbone.dim, DIM)
    network = TrainingNetwork(embedder, branch)
    if world.size > 1:
        synchronise(network, world.device)
    network.to(world.device)
    if embedder.backbone.is_convolutional:
        network.to(memory_format=torch.channels_last)
    options = HeadOptions(update=update)
    heads = {
        "metric": Head(DIM, CLASSES, create_loss("arcface", scale=16.0), options, world=world),
        "classification": Head(DIM, CLASSES, create_loss("softmax", scale=20.0), options,
                               world=world, seed=1),
    }  # fmt: skip
    for head in heads.values():
        head.to(world.device)
    groups = parameter_groups(
        network,
        [head for head in heads.values() if head.update is None],
        weight_decay=1e-4,
        backbone_prefix="embedder.backbone.",
    )
    optimizer = create_optimizer("sgd", groups, momentum=0.9)
    updates = [head.update for head in heads.values() if head.update is not None]
    set_lr(optimizer, 0.05, updates)
    scaler = LossScaler(enabled=precision == torch.float16)
    average = WeightAverage(embedder, 0.9) if ema else None
    trained = Trained(network, heads, optimizer, scaler, average)
    step = TrainStep(
        trained, loss_weights={"metric": 1.0, "classification": 1.0}, world=world, seed=0,
        precision=precision, accumulate=accumulate,
    )  # fmt: skip
    step.prepare(frozen=False)
    return step


def weights(step):
    heads = step.trained.heads
    found = {name: p.detach().cpu().clone() for name, p in step.network.named_parameters()}
    return found | {name: head.weight.detach().cpu().clone() for name, head in heads.items()}


def distance(one, other):
    return sum(float((one[name] - other[name]).square().sum()) for name in one) ** 0.5


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_a_step_is_that_of_the_cpu_in_float32(device, precision, backbone):
    if PRETEND and precision != torch.float32:
        pytest.skip("a pretended device computes in float32")
    steps = [
        make_step(World(), backbone=backbone),
        make_step(World(device=device), precision, backbone=backbone),
    ]
    begin = weights(steps[0])
    outcomes = [step(make_batch(), 0) for step in steps]
    assert all(outcome.finite for outcome in outcomes)
    allowed = 1e-3 if precision == torch.float32 else 3e-2
    for name, value in outcomes[0].losses.items():
        assert outcomes[1].losses[name] == pytest.approx(value, rel=allowed), name
    true, mine = weights(steps[0]), weights(steps[1])
    # Dropout draws other numbers on another device: only the size of the step is the same.
    assert 0.3 < distance(mine, begin) / distance(true, begin) < 3


def test_several_steps_lower_the_loss(device):
    step = make_step(World(device=device), torch.bfloat16, ema=True)
    batch = make_batch()
    losses = [step(batch, number).losses["loss"] for number in range(12)]
    assert losses[-1] < losses[0]
    average = step.trained.average.values
    assert all(value.isfinite().all() for value in average.values() if value.is_floating_point())


def test_micro_batches_are_those_of_the_cpu(device):
    if PRETEND:
        places = [World(), World(device=device)]
        steps = [make_step(world, backbone="test_vit", accumulate=3) for world in places]
    else:  # dropout draws other numbers there
        steps = [make_step(World(device=device), backbone="test_vit", accumulate=n) for n in (1, 3)]
    outcomes = [step(make_batch(), 0) for step in steps]
    assert all(outcome.finite for outcome in outcomes)
    wanted = outcomes[0].losses["metric_loss"]
    assert outcomes[1].losses["metric_loss"] == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("fused", [False, True])
def test_the_loss_scale_changes_no_weight(device, fused):
    rule = UpdateRule("sgd", momentum=0.9, weight_decay=1e-4) if fused else None
    results = []
    for scale in (1.0, 1024.0):
        step = make_step(World(device=device), update=rule)
        step.trained.scaler.scale = scale
        assert step(make_batch(), 0).finite
        results.append(weights(step))
    for name, value in results[0].items():
        assert torch.allclose(results[1][name], value, rtol=1e-4, atol=1e-6), name


def test_a_step_that_overflows_is_left_out_and_the_scale_halves(real_device):
    step = make_step(World(device=real_device), torch.float16)
    scaler = step.trained.scaler
    scaler.scale = 2.0**60
    begin = weights(step)
    outcome = step(make_batch(), 0)
    scaler.update(finite=outcome.finite)
    assert not outcome.finite
    assert scaler.scale == 2.0**59
    assert distance(weights(step), begin) == 0
    scaler.scale = 2.0**10
    assert step(make_batch(), 1).finite
    assert distance(weights(step), begin) > 0


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_steps_repeat_to_the_bit(real_device, precision):
    device, results = real_device, []
    with repeatable(device):
        for _ in range(2):
            step = make_step(World(device=device), precision)
            for number in range(3):
                step(make_batch(), number)
            results.append(weights(step))
    assert distance(*results) == 0
