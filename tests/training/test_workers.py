"""Two workers against one: gradients, lists, launches, errors."""

import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from engine_process import TINY, call, records
from torch import nn

from lookalike.data.loading.batch import Batch
from lookalike.data.readers import read_records
from lookalike.data.record_table import RecordTable
from lookalike.data.shared_records import read_once
from lookalike.distributed.world import World
from lookalike.errors import DataError, LookalikeError
from lookalike.losses import create_loss
from lookalike.losses.head import Head
from lookalike.model.batchnorm import synchronise
from lookalike.model.dry_run import exclude_unused
from lookalike.model.embedder import Embedder
from lookalike.model.training_network import ClassificationBranch, TrainingNetwork
from lookalike.training.checkpoint import Trained
from lookalike.training.loss_scaler import LossScaler
from lookalike.training.step import TrainStep

CLASSES, BATCH = 7, 11


def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (BATCH, 3, 32, 32), dtype=torch.uint8, generator=generator)
    classes = torch.randint(0, CLASSES, (BATCH,), generator=generator)
    return Batch(images, classes, torch.arange(BATCH))


def gradients(world: World, backbone: str, sharded: bool) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    embedder = Embedder.create(backbone, pretrained=False, image_size=32, embedding_dim=12)
    branch = ClassificationBranch(embedder.backbone.dim, 12)
    branch.dropout = nn.Dropout(0.0)  # the only thing that rightly differs between workers
    network = TrainingNetwork(embedder, branch)
    exclude_unused(network, 32)
    network.double()
    if world.size > 1:
        synchronise(network, world.device)
    heads = {
        name: Head(dim, CLASSES, create_loss(margin), sharded=sharded, world=world).double()
        for name, dim, margin in (
            ("metric", 12, "arcface"),
            ("metric_5", 5, "arcface"),
            ("classification", 12, "softmax"),
        )
    }
    parameters = [*network.parameters(), *(h.weight for h in heads.values())]
    trained = Trained(
        network, heads, torch.optim.SGD(parameters, lr=0.0), LossScaler(enabled=False), None
    )
    step = TrainStep(
        trained,
        loss_weights={"metric": 0.7, "metric_5": 0.3, "classification": 0.5},
        world=world,
        seed=0,
    )
    step.prepare(frozen=False)
    whole = batch()
    mine = world.shard(BATCH)
    fields = (whole.images, whole.classes, whole.rows)
    part = Batch(*(field[mine.start : mine.stop] for field in fields))
    outcome = step(part, 0)
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    for name, head in heads.items():
        rows = torch.zeros(CLASSES, head.dim, dtype=torch.float64)
        if len(head.rows):
            rows[head.rows.start : head.rows.stop] = head.weight.grad
        found[f"head {name}"] = world.sum(rows) if sharded else rows
    found["loss"] = torch.tensor(outcome.losses["loss"])
    found |= {f"buffer {n}": b.clone() for n, b in network.named_buffers()}
    network.eval()  # also a batch norm with timm's activation, and running statistics
    found["evaluated"] = network(whole.images[:3])[0]
    return {name: value.detach().clone() for name, value in found.items()}


CASES = [("test_resnet", False), ("test_vit", True)]
"""Backbone, and whether the head is sharded."""

MORE = [
    ("test_resnet", True),
    ("test_vit", False),
    ("test_efficientnet", False),
    ("test_efficientnet", True),
    ("mobilenetv4_conv_small_050", False),  # has parameters that its features do not use
]


def read_lists(world: World, file: Path) -> None:
    """One worker reads a list and the other maps it; both stop where it cannot be read."""

    def read() -> RecordTable:
        assert world.rank == 0
        file.write_text("a.jpg 1\nb.jpg shoe\n")
        return read_records(str(file))

    def fail() -> RecordTable:
        raise DataError("list.txt:3: a bad line")

    found = [(record.uri, record.label, record.origin) for record in read_once(read, world)]
    assert found == [
        (str(file.with_name("a.jpg")), "1", f"{file}:1"),
        (str(file.with_name("b.jpg")), "shoe", f"{file}:2"),
    ]
    with pytest.raises(LookalikeError, match=r"list\.txt:3: a bad line"):
        read_once(fail, world)


def work(rank: int, port: int, cases: list[tuple[str, bool]], results) -> None:
    import os

    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": "2",
    }  # fmt: skip
    torch.set_num_threads(1)
    with World.from_env("cpu") as world:
        found = [gradients(world, backbone, sharded) for backbone, sharded in cases]
        if rank == 0:
            torch.save(found, results)
        read_lists(world, results.with_name("list.txt"))


@pytest.mark.parametrize(
    "cases", [pytest.param(CASES, id="some"), pytest.param(MORE, id="more", marks=pytest.mark.slow)]
)
def test_two_workers_give_the_gradients_of_one(tmp_path, cases):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = tmp_path / "found.pt"
    mp.spawn(work, (port, cases, results), nprocs=2)
    for case, together in zip(cases, torch.load(results, weights_only=True), strict=True):
        alone = gradients(World(), case[0], sharded=False)
        assert alone.keys() == together.keys()
        for name, expected in alone.items():
            # float64 throughout, but for the pixels; batch norm over a few values amplifies.
            torch.testing.assert_close(
                together[name], expected, rtol=1e-6, atol=1e-9, msg=f"{case}: {name}"
            )


def test_workers_option_trains_and_reports_an_error_once(shapes, tmp_path):
    run = tmp_path / "run"
    words = [
        "train", "--train", str(shapes / "train.txt"), "--output", str(run),
        "--backbone", "test_resnet", "--workers", "2", "run.device=cpu", "train.max_steps=2", *TINY,
    ]  # fmt: skip
    done = call(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "batch: 8 images, 4 on each of 2 workers" in done.stderr
    assert done.stdout == f"{run}\n"
    assert [r["step"] for r in records(run)] == [1, 2]

    again = call(*words, cwd=tmp_path)
    assert again.returncode == 2, again.stderr
    assert again.stderr.count("holds a run already") == 1
    assert "Traceback" not in again.stderr
    assert len(again.stderr.strip().splitlines()) == 1, again.stderr
