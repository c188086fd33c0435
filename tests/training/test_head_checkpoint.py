"""Class rows and their optimizer state, written and read by different numbers of workers."""

import math
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from engine_process import TINY, call, records

from lookalike.commands.train import train
from lookalike.config.config import Config
from lookalike.distributed.world import World
from lookalike.errors import RunError
from lookalike.losses import create_loss
from lookalike.losses.class_weights import HeadOptions
from lookalike.losses.head import Head
from lookalike.losses.head_update import UpdateRule
from lookalike.run import Run
from lookalike.training import checkpoint, head_checkpoint
from lookalike.training.head_checkpoint import HeadRows, load_head
from lookalike.training.learning_rate import set_lr
from lookalike.training.open_run import restore
from lookalike.training.optimizer import create_optimizer

DIM, LR, DECAY, MOMENTUM = 6, 0.05, 0.01, 0.9


class Learner:
    """A head with its optimizer, and steps of training on random batches."""

    def __init__(self, classes=11, *, optim="sgd", fused=False, world=None, loss="arcface",
                 **options):  # fmt: skip
        rule = UpdateRule(optim, MOMENTUM, DECAY) if fused else None
        self.head = Head(
            DIM, classes, create_loss(loss), HeadOptions(update=rule, **options),
            sharded=world is not None, world=world or World(),
        )  # fmt: skip
        held = [] if fused else [self.head.weight]
        group = {"params": [*held, torch.nn.Parameter(torch.zeros(2))], "lr_factor": 1.0,
                 "weight_decay": DECAY}  # fmt: skip
        self.optimizer = create_optimizer(optim, [group], momentum=MOMENTUM)
        set_lr(self.optimizer, LR, [self.head.update] if fused else [])

    def train(self, steps: range) -> "Learner":
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            embeddings = torch.randn(5, DIM, generator=generator)
            classes = torch.randint(0, self.head.num_classes, (5,), generator=generator)
            self.optimizer.zero_grad()
            self.head.begin()
            self.head(embeddings, classes).backward()
            self.head.end()
            self.optimizer.step()
        return self

    def rows(self) -> dict[str, torch.Tensor]:
        if self.head.update is not None:
            state = self.head.update.rows
        else:
            state = {k: v for k, v in self.optimizer.state[self.head.weight].items() if v.ndim}
        return {"weight": self.head.weight.detach(), **state}

    def save(self, folder: Path) -> "Learner":
        tensors, header = head_checkpoint.content(self.head, self.optimizer)
        folder.mkdir(exist_ok=True)
        part = head_checkpoint.file_name("metric", self.head.peers.rank)
        plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
        safetensors.torch.save_file(plain, folder / part, header)
        return self

    def load(self, folder: Path, steps: int = 0) -> "Learner":
        load_head(folder, "metric", self.head, self.optimizer, steps=steps)
        return self


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


KINDS = {
    "sgd": {},
    "adamw, two centres": {"optim": "adamw", "centres": 2},
    "fused bf16, three centres": {"fused": True, "dtype": torch.bfloat16, "centres": 3},
    "sampled adamw": {"fused": True, "optim": "adamw", "sample_rate": 0.3},
    "sampled sgd": {"fused": True, "sample_rate": 0.5, "loss": "curricularface"},
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_rows_and_state_move_between_any_numbers_of_workers(tmp_path, kind, monkeypatch):
    """Through 1 -> 2 -> 1 -> 3 -> 13 (two of them without a class) -> 2 -> 1 workers."""
    monkeypatch.setattr(head_checkpoint, "BLOCK_BYTES", 4 * DIM * 2)  # several reads for each share
    first = Learner(**kind).train(range(4)).save(tmp_path / "0")
    expected, common = first.rows(), {}
    if first.head.update is not None:
        common = dict(first.head.update.common)
    for turn, size in enumerate([2, 1, 3, 13, 2, 1], start=1):
        parts = [
            Learner(**kind, world=World(rank, size)).load(tmp_path / f"{turn - 1}")
            for rank in range(size)
        ]
        found = [part.rows() for part in parts]
        assert_same({k: torch.cat([f[k] for f in found]) for k in expected}, expected)
        for part in parts:
            part.save(tmp_path / f"{turn}")
            assert torch.equal(part.head.margin_state, first.head.margin_state)
            if part.head.update is not None:
                assert_same(dict(part.head.update.common), common)
                assert part.head.update.steps == 4
            elif "exp_avg" in expected:
                assert float(part.optimizer.state[part.head.weight]["step"]) == 4


@pytest.mark.parametrize("optim", ["sgd", "adamw"])
@pytest.mark.parametrize("to_fused", [True, False])
def test_resume_with_and_without_the_fused_update(tmp_path, optim, to_fused):
    Learner(optim=optim, fused=not to_fused).train(range(3)).save(tmp_path)
    moved = Learner(optim=optim, fused=to_fused).load(tmp_path, steps=3).train(range(3, 8))
    stayed = Learner(optim=optim).train(range(8))
    for name, expected in stayed.rows().items():
        torch.testing.assert_close(moved.rows()[name], expected, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("optim", ["sgd", "adamw"])
@pytest.mark.parametrize("fused", [True, False])
def test_pending_updates_are_applied_when_sampling_ends(tmp_path, optim, fused):
    sampled = Learner(40, optim=optim, fused=True, sample_rate=0.1).train(range(6)).save(tmp_path)
    update = sampled.head.update
    assert (update.rows["seen"] < 6).any()
    exact = Learner(40, optim=optim, fused=fused).load(tmp_path)
    expected = update.current_rows(sampled.head.weight.detach(), torch.arange(40))
    names = ["weight", *update.MOMENTS]
    assert_same(exact.rows(), dict(zip(names, expected, strict=True)))


def test_no_pending_updates_when_sampling_begins(tmp_path):
    exact = Learner().train(range(5)).save(tmp_path)
    sampled = Learner(fused=True, sample_rate=0.3).load(tmp_path, steps=5)
    update = sampled.head.update
    assert update.steps == 5
    weight, momentum = update.current_rows(sampled.head.weight.detach(), torch.arange(11))
    assert_same({"weight": weight, "momentum_buffer": momentum}, exact.rows())


def test_rows_change_their_dtype(tmp_path):
    wide = Learner(fused=True).train(range(3)).save(tmp_path / "wide")
    narrow = Learner(fused=True, dtype=torch.bfloat16).load(tmp_path / "wide")
    assert_same(narrow.rows(), {name: value.bfloat16() for name, value in wide.rows().items()})
    narrow.save(tmp_path / "narrow")
    again = Learner().load(tmp_path / "narrow")
    assert_same(again.rows(), {name: value.float() for name, value in narrow.rows().items()})


def test_only_selected_classes_are_read(tmp_path, monkeypatch):
    whole = Learner(50, centres=2).train(range(2))
    for rank in range(3):
        part = Learner(50, centres=2, world=World(rank, 3))
        held = slice(part.head.rows.start * 2, part.head.rows.stop * 2)
        part.head.weight.data.copy_(whole.head.weight.data[held])
        part.save(tmp_path)
    monkeypatch.setattr(head_checkpoint, "BLOCK_BYTES", 4 * DIM * 2 * 7)
    wanted = torch.randperm(50)[:21].sort().values
    found = torch.zeros(21, 2, DIM)
    with HeadRows(tmp_path, "metric") as saved:
        for where, rows in saved.read(wanted):
            found[where] = rows["weight"].unflatten(0, (-1, 2))
    assert torch.equal(found, whole.head.weight.detach().unflatten(0, (-1, 2))[wanted])


def test_running_statistics_of_another_loss_are_not_loaded(tmp_path):
    Learner(loss="curricularface").train(range(3)).save(tmp_path)
    kept = Learner(loss="curricularface").load(tmp_path)
    other = Learner(loss="adaface").load(tmp_path)
    assert kept.head.margin_state.item() != 0
    assert torch.equal(other.head.margin_state, Learner(loss="adaface").head.margin_state)


def test_rows_that_do_not_fit_are_refused(tmp_path):
    for rank in range(3):
        Learner(world=World(rank, 3)).save(tmp_path)
    Learner(optim="adamw").train(range(2)).save(tmp_path / "adamw")
    with pytest.raises(ValueError, match="11 classes, and not 12"):
        Learner(12).load(tmp_path)
    with pytest.raises(ValueError, match="1 centres a class, and not 2"):
        Learner(centres=2).load(tmp_path)
    with pytest.raises(ValueError, match=r"\(exp_avg, exp_avg_sq\) is not that of optim.name=sgd"):
        Learner().load(tmp_path / "adamw")
    with pytest.raises(FileNotFoundError):
        load_head(tmp_path, "other", Learner().head, Learner().optimizer, steps=0)
    (tmp_path / head_checkpoint.file_name("metric", 2)).unlink()
    with pytest.raises(ValueError, match="hold 8 of its 11 classes"):
        Learner().load(tmp_path)
    (tmp_path / head_checkpoint.file_name("metric", 0)).unlink()
    with pytest.raises(ValueError, match="do not hold the classes from 0 to 4"):
        Learner().load(tmp_path)


def test_heads_of_the_first_format_are_read(tmp_path):
    """Files of two workers, as lookalike wrote them before there were centres."""
    weight, momentum = torch.randn(2, 11, DIM)
    tensors = {"weight": weight, "optimizer.exp_avg": momentum,
               "optimizer.exp_avg_sq": momentum.square()}  # fmt: skip
    for part, (start, stop) in enumerate([(0, 6), (6, 11)]):
        rows = {name: value[start:stop].clone() for name, value in tensors.items()}
        safetensors.torch.save_file(
            {**rows, "optimizer.step": torch.tensor(7.0)},
            tmp_path / head_checkpoint.file_name("metric", part),
            {"start": str(start), "stop": str(stop)},
        )  # fmt: skip
    read = Learner(optim="adamw").load(tmp_path)
    state = {"exp_avg": momentum, "exp_avg_sq": momentum.square()}
    assert_same(read.rows(), {"weight": weight, **state})
    assert float(read.optimizer.state[read.head.weight]["step"]) == 7


def resume_on(workers, shapes, folder, *settings):
    """Runs of 5 steps on each of these numbers of workers against one uninterrupted run.

    Without the branch, whose dropout differs between workers, and without what amplifies rounding:
    batch norm on maps of one pixel, and a larger margin.
    """
    more = [
        "loss.name=amsoftmax", "loss.margin=0.1", "loss.scale=16",
        "run.device=cpu", "loss.classification_weight=0", "model.backbone=test_vit",
        "optim.schedule=constant", "optim.warmup_steps=0", "optim.lr=0.003", *TINY, *settings,
    ]  # fmt: skip
    pairs = [word.replace(".", "__", 1).split("=") for word in more]
    alone = {key: yaml.safe_load(value) for key, value in pairs}
    alone["train"] = str(shapes / "train.txt")
    last = 5 * len(workers)
    train(**alone, output=str(folder / "one"), max_steps=last)
    words = ["train", "--train", alone["train"], "--output", str(folder / "many"), *more]
    for steps, count in zip(range(5, last + 1, 5), workers, strict=True):
        if count == 1:
            train(**alone, output=str(folder / "many"), max_steps=steps, resume=True)
            continue
        done = call(*words, "--resume", "--workers", str(count), f"train.max_steps={steps}",
                    cwd=folder)  # fmt: skip
        assert done.returncode == 0, done.stderr
    expected, found = ([r["loss"] for r in records(folder / run)] for run in ("one", "many"))
    assert len(expected) == last
    assert all(map(math.isfinite, expected))
    assert found == pytest.approx(expected, rel=1e-4)


def test_slow_worker_ignores_files_the_main_worker_just_wrote(tmp_path):
    """It would wait for the others to restore, who are at their first step."""

    class Slow(World):
        def all_gather_object(self, value):
            return [False, value]  # the main worker found no run

    run = Run(tmp_path)
    run.config.write_text("")  # and has begun one since
    assert restore(run, None, None, None, True, Slow(rank=1, size=2), Config()) is None


def test_resume_of_a_dense_head_on_other_numbers_of_workers(shapes, tmp_path):
    resume_on([1, 2], shapes, tmp_path, "head.parallel=data")


@pytest.mark.slow
def test_resume_of_a_sharded_head_on_other_numbers_of_workers(shapes, tmp_path):
    """Also missing and torn shards."""
    resume_on([2, 1, 3], shapes, tmp_path, "head.parallel=model", "head.centres=2")
    whole = tmp_path / "many/checkpoints/step-00000015"
    assert len(list(whole.glob("head-metric-*"))) == 3
    copy = tmp_path / "copy/step-00000015"
    shutil.copytree(whole, copy)
    shard = copy / "head-metric-00001.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[:-9])
    size = len(content)
    with pytest.raises(
        RunError, match=f"00001.safetensors: has {size - 9} bytes instead of {size}"
    ):
        checkpoint.read_state(copy)
    shard.unlink()
    with pytest.raises(RunError, match=r"head-metric-00001\.safetensors is missing"):
        checkpoint.read_state(copy)
    newest, faults = checkpoint.newest(copy.parent)
    assert newest is None
    assert len(faults) == 1
    state = copy / checkpoint.STATE_FILE
    state.write_text(state.read_text().replace(checkpoint.FORMAT, "lookalike checkpoint 99"))
    with pytest.raises(RunError, match="written by another version of lookalike"):
        checkpoint.read_state(copy)
