"""Training step: skipped steps, and batches in micro-batches."""

import socket

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from lookalike.data.loading.batch import Batch
from lookalike.distributed.world import World
from lookalike.losses import create_loss
from lookalike.losses.class_weights import HeadOptions
from lookalike.losses.head import Head
from lookalike.losses.head_update import UpdateRule
from lookalike.model.batchnorm import measure_statistics, share_statistics, synchronise
from lookalike.model.embedder import Embedder
from lookalike.model.training_network import ClassificationBranch, TrainingNetwork
from lookalike.training.checkpoint import Trained
from lookalike.training.learning_rate import set_lr
from lookalike.training.loss_scaler import LossScaler
from lookalike.training.optimizer import create_optimizer, parameter_groups
from lookalike.training.step import TrainStep
from lookalike.training.weight_average import WeightAverage

CLASSES, BATCH, DIM = 7, 12, 12
PLAIN = HeadOptions()
FUSED = HeadOptions(update=UpdateRule("sgd", weight_decay=0.01), chunk=3)
ADAMW = HeadOptions(update=UpdateRule("adamw"), chunk=3)
SAMPLED = HeadOptions(update=UpdateRule("sgd"), sample_rate=0.4)
NARROW = HeadOptions(update=UpdateRule("sgd"), dtype=torch.bfloat16)


def batch(number: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(number)
    images = torch.randint(0, 256, (BATCH, 3, 32, 32), dtype=torch.uint8, generator=generator)
    classes = torch.randint(0, CLASSES, (BATCH,), generator=generator)
    return Batch(images, classes, torch.arange(BATCH))


def part_of(whole: Batch, world: World) -> Batch:
    mine = world.shard(BATCH)
    fields = (whole.images, whole.classes, whole.rows)
    return Batch(*(field[mine.start : mine.stop] for field in fields))


def create(
    world: World = World(),  # noqa: B008  # frozen
    *,
    backbone: str = "test_resnet",
    margin: str = "curricularface",
    options: HeadOptions = PLAIN,
    sharded: bool = False,
    precision: torch.dtype = torch.float32,
    accumulate: int = 1,
    double: bool = False,
    synced: bool = True,
) -> TrainStep:
    torch.manual_seed(0)
    embedder = Embedder.create(
        backbone, pretrained=False, image_size=32, embedding_dim=DIM,
        normalize=not create_loss(margin).uses_length,
    )  # fmt: skip
    branch = ClassificationBranch(embedder.backbone.dim, DIM)
    branch.dropout = nn.Dropout(0.0)
    if backbone == "test_vit":
        branch.norm = nn.Identity()  # nothing in it depends on the other images of a batch
    network = TrainingNetwork(embedder, branch)
    heads = {
        "metric": Head(DIM, CLASSES, create_loss(margin), options, sharded=sharded, world=world),
        "classification": Head(DIM, CLASSES, create_loss("softmax"), sharded=sharded,
                               world=world, label_smoothing=0.1),
    }  # fmt: skip
    if double:
        network.double()
        for head in heads.values():
            head.double()
    if world.size > 1 and synced:
        synchronise(network, world.device)
    groups = parameter_groups(
        network, [head for head in heads.values() if head.update is None], weight_decay=0.01,
        backbone_prefix="embedder.backbone.",
    )  # fmt: skip
    half = precision == torch.float16
    trained = Trained(
        network, heads, create_optimizer("adamw", groups, momentum=0.9), LossScaler(enabled=half),
        WeightAverage(embedder, 0.9),
    )  # fmt: skip
    step = TrainStep(
        trained, loss_weights={"metric": 0.7, "classification": 0.5}, world=world, seed=0,
        precision=precision, clip_grad_norm=5.0, accumulate=accumulate,
    )  # fmt: skip
    step.prepare(frozen=False)
    return step


def do(step: TrainStep, number: int, world: World = World()):  # noqa: B008
    updates = [h.update for h in step.trained.heads.values() if h.update is not None]
    set_lr(step.trained.optimizer, 0.05, updates)
    return step(part_of(batch(number), world), number)


def state(step: TrainStep) -> dict[str, torch.Tensor]:
    """All that a step may change."""
    trained = step.trained
    found = {f"network.{k}": v for k, v in trained.network.state_dict().items()}
    for name, head in trained.heads.items():
        found |= {f"{name}.{k}": v for k, v in head.state_dict().items()}
        if head.update is not None:
            found[f"{name}.steps"] = torch.tensor(head.update.steps)
    for number, each in enumerate(trained.optimizer.state.values()):
        found |= {f"optimizer.{number}.{k}": v for k, v in each.items()}
    assert trained.average is not None
    found |= {f"ema.{k}": v for k, v in trained.average.values.items()}
    return {name: value.detach().clone() for name, value in found.items()}


def poison(step: TrainStep, kind: str) -> list:
    """Let the next step have something that is not finite; returns the hooks to remove."""
    backbone = step.network.embedder.backbone
    if kind == "activations":
        return [backbone.register_forward_hook(lambda m, i, out: (out[0] * torch.inf, out[1]))]
    if kind == "gradients":  # of the network alone, and the loss is finite
        weight = next(p for p in backbone.parameters() if p.ndim > 1)
        return [weight.register_hook(lambda gradient: gradient * torch.nan)]
    assert kind == "statistics"  # a variance that overflows; its norm gives zeros
    norm = next(m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d))
    return [norm.register_forward_pre_hook(lambda m, i: (i[0] * 1e30,))]


def assert_same(found: dict, expected: dict, **close) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if close:
            torch.testing.assert_close(
                found[name], value, msg=lambda m, n=name: f"{n}: {m}", **close
            )
        else:
            assert torch.equal(found[name], value), name


@pytest.mark.parametrize("kind", ["activations", "gradients", "statistics"])
@pytest.mark.parametrize(
    ("margin", "options"),
    [("curricularface", PLAIN), ("adaface", FUSED), ("arcface", SAMPLED), ("arcface", NARROW),
     ("arcface", ADAMW)],
    ids=["plain", "fused", "sampled", "bf16", "adamw"],
)  # fmt: skip
def test_a_skipped_step_changes_nothing(kind, margin, options):
    step, peer = (create(margin=margin, options=options) for _ in range(2))
    for each in (step, peer):
        assert do(each, 0).finite
    before = state(step)
    hooks = poison(step, kind)
    outcome = do(step, 1)
    for hook in hooks:
        hook.remove()
    assert not outcome.finite
    assert_same(state(step), before)
    # What comes after is as if the step had never been.
    assert do(step, 2).finite
    do(peer, 2)
    assert_same(state(step), state(peer))


def test_float16_overflow_changes_only_the_loss_scale():
    step = create(precision=torch.float16, options=FUSED)
    step.trained.scaler.scale = 2.0**60
    before = state(step)
    assert not do(step, 0).finite
    assert_same(state(step), before)
    step.trained.scaler.scale = 2.0**8
    assert do(step, 0).finite


@pytest.mark.parametrize(
    ("margin", "options"),
    [
        ("curricularface", PLAIN),
        ("curricularface", FUSED),
        ("arcface", ADAMW),
        ("arcface", SAMPLED),
    ],
    ids=["plain", "fused", "adamw", "sampled"],
)
@pytest.mark.parametrize("accumulate", [2, 5])
def test_micro_batches_give_the_step_of_the_whole_batch(accumulate, margin, options):
    make = {"backbone": "test_vit", "margin": margin, "options": options, "double": True}
    whole, parts = create(**make), create(**make, accumulate=accumulate)
    for number in range(3):
        one, other = do(whole, number), do(parts, number)
        assert other.losses == pytest.approx(one.losses, rel=1e-9)
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-6)
    assert_same(state(parts), state(whole), rtol=1e-6, atol=1e-9)


def test_each_micro_batch_updates_running_statistics_once():
    step = create(accumulate=3)
    do(step, 0)
    names = [k for k in state(step) if k.endswith("num_batches_tracked") and "ema" not in k]
    assert names
    assert {int(state(step)[name]) for name in names} == {3}
    before = state(step)
    hooks = poison(step, "gradients")
    assert not do(step, 1).finite
    for hook in hooks:
        hook.remove()
    assert_same(state(step), before)


CASES = {
    "plain": {},
    "fused": {"options": FUSED},
    "sharded": {"options": FUSED, "sharded": True},
    "norms of each worker": {"synced": False},
}
WHOLE = {
    "plain": {"backbone": "test_vit", "double": True, "margin": "curricularface"},
    "sharded, fused": {
        "backbone": "test_vit", "double": True, "margin": "arcface", "options": FUSED,
        "sharded": True,
    },
}  # fmt: skip

BATCHES = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0)) * 5 + 2


def work(rank: int, port: int, folder) -> None:
    import os

    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": "2",
    }  # fmt: skip
    torch.set_num_threads(1)
    found = {}
    with World.from_env("cpu") as world:
        for name, case in CASES.items():
            for kind in ("activations", "gradients", "statistics"):
                step = create(world, **case)
                do(step, 0, world)
                before = state(step)
                hooks = poison(step, kind) if rank == 1 else []
                finite = do(step, 1, world).finite
                for hook in hooks:
                    hook.remove()
                after = state(step)
                same = all(torch.equal(after[key], before[key]) for key in before)
                found[f"{name}, {kind}"] = torch.tensor([not finite, same])
        for name, case in WHOLE.items():
            step = create(world, **case, accumulate=3)
            for number in range(2):
                do(step, number, world)
            found |= {f"{name}: {key}": value for key, value in state(step).items()}
        network = nn.Sequential(nn.BatchNorm1d(3))
        measure_statistics(network, iter(BATCHES[2 * rank : 2 * rank + 2]), world)
        found["measured"] = torch.stack(list(network.buffers())[:2])
        network(BATCHES[rank])
        share_statistics(network, world)
        found["shared"] = torch.stack(list(network.buffers())[:2])
    torch.save(found, folder / f"{rank}.pt")


def test_two_workers_skip_alike_and_share_micro_batches(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, (port, tmp_path), nprocs=2)
    both = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for found in both:
        for name in CASES:
            for kind in ("activations", "gradients", "statistics"):
                assert found[f"{name}, {kind}"].all(), (name, kind)
    network = nn.Sequential(nn.BatchNorm1d(3))
    measure_statistics(network, iter(BATCHES))
    expected = [torch.stack(list(network.buffers())[:2])]
    network(BATCHES[0])
    expected.append(torch.stack(list(network.buffers())[:2]))
    for found in both:
        torch.testing.assert_close([found["measured"], found["shared"]], expected)
    for name, case in WHOLE.items():
        alone = create(**{**case, "sharded": False})
        for number in range(2):
            do(alone, number)
        for key, expected in state(alone).items():
            mine = [found[f"{name}: {key}"] for found in both]
            if mine[0].shape != expected.shape:  # rows of each worker
                mine = [torch.cat(mine)]
            for each in mine:
                # float32 of sums in another order; another update differs by 1e-3
                torch.testing.assert_close(each, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_activations_computed_again_change_nothing(backbone, accumulate):
    """Running statistics of batch norms move once a step, though their layers run twice."""
    usual, again = (create(backbone=backbone, accumulate=accumulate) for _ in range(2))
    again.network.embedder.backbone.checkpoint_activations()
    again.recomputing = True
    calls = count_calls(again.network.embedder.backbone)
    for number in range(2):
        assert do(usual, number) == do(again, number)
    assert max(calls.values()) > min(calls.values())
    expected = state(usual)
    for name, value in state(again).items():
        assert torch.equal(value, expected[name]), name


def count_calls(module: nn.Module) -> dict[str, int]:
    """Calls of each layer without children, from now on."""
    calls: dict[str, int] = {}

    def count(name: str) -> None:
        calls[name] = calls.get(name, 0) + 1

    for name, layer in module.named_modules():
        if not list(layer.children()):
            layer.register_forward_pre_hook(lambda *_, name=name: count(name))
    return calls
