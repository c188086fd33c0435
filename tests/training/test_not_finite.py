"""Losses, weights and vectors that are not finite: reported, counted and never written."""

import logging

import numpy as np
import pytest
import torch
from engine_process import records

import lookalike
from lookalike.commands.train import train
from lookalike.data.loading.bad_images import BadImages
from lookalike.data.record import Record
from lookalike.errors import ModelError, TrainingError
from lookalike.losses.head import Head
from lookalike.model.embedder import Embedder
from lookalike.model.inference import embed_records
from lookalike.training.step import TrainStep


def settings(shapes, output, **change):
    return {
        "train": str(shapes / "train.txt"), "output": str(output), "backbone": "test_resnet",
        "pretrained": False, "image_size": 32, "embedding_dim": 8, "batch_size": 8,
        "device": "cpu", "threads": 0, "log_every": 1, "report": False, "epochs": 1, **change,
    }  # fmt: skip


@pytest.fixture
def broken_steps(monkeypatch):
    """Makes the losses of some steps NaN."""
    call, forward, broken = TrainStep.__call__, Head.forward, [False]

    def patched_call(step, batch, number):
        broken[0] = breaks.which(number)
        return call(step, batch, number)

    def patched_forward(head, embeddings, classes):
        loss = forward(head, embeddings, classes)
        return loss * torch.nan if broken[0] else loss

    def breaks(which):
        breaks.which = which
        monkeypatch.setattr(TrainStep, "__call__", patched_call)
        monkeypatch.setattr(Head, "forward", patched_forward)

    return breaks


def test_skipped_steps_are_counted_at_the_end(shapes, tmp_path, broken_steps, caplog):
    broken_steps(lambda number: number == 2)
    with caplog.at_level(logging.INFO, "lookalike"):
        run = train(**settings(shapes, tmp_path / "run"))
    assert "1 of 6 steps were skipped, as the loss or a gradient was not finite" in caplog.text
    assert [r["skipped"] for r in records(run.path)] == [0, 0, 1, 1, 1, 1]
    model = Embedder.load(run.model)
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_all_steps_skipped_is_an_error(shapes, tmp_path, broken_steps):
    broken_steps(lambda number: True)
    with pytest.raises(
        TrainingError, match=r"all 6 steps were skipped.* nothing was learned\. Lower"
    ):
        train(**settings(shapes, tmp_path / "run"))


def test_weights_that_are_not_finite_are_not_saved(shapes, tmp_path):
    output = tmp_path / "run"
    change = {"lr": 3e38, "clip_grad_norm": 0, "warmup_steps": 0, "max_steps": 1}
    with pytest.raises(TrainingError, match=r"weights are not finite after step 1 .* not saved"):
        train(**settings(shapes, output, **change))
    assert [path.name for path in output.glob("checkpoints/step-*")] == ["step-00000000"]
    model = Embedder.load(output / "model")
    assert all(value.isfinite().all() for value in model.state_dict().values())


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A model folder with one weight that is NaN."""
    torch.manual_seed(0)
    embedder = Embedder.create("test_resnet", pretrained=False, image_size=32, embedding_dim=8)
    with torch.no_grad():
        embedder.neck.projections[0].weight[0, 0] = torch.nan
    folder = tmp_path_factory.mktemp("broken") / "model"
    embedder.save(folder)
    return folder


def test_no_command_returns_or_writes_a_vector_that_is_not_finite(shapes, broken, tmp_path):
    for call in (
        lambda: lookalike.embed(broken, str(shapes / "val.txt"), output=str(tmp_path / "v.npy")),
        lambda: lookalike.evaluate(broken, data=str(shapes / "val.txt")),
        lambda: lookalike.search(
            broken, gallery=str(shapes / "val.txt"), queries=[str(shapes / "images/100-0.jpg")]
        ),
        lambda: lookalike.search(
            broken, gallery=str(shapes / "val.txt"), index=str(tmp_path / "index")
        ),
        lambda: lookalike.export(
            broken,
            format="torch_export",
            data=str(shapes / "val.txt"),
            output=str(tmp_path / "out.pt2"),
        ),
    ):
        with pytest.raises(ModelError, match="vectors that are not finite"):
            call()
    assert not (tmp_path / "v.npy").exists()


def test_images_with_vectors_that_are_not_finite_are_named(shapes, broken):
    embedder = Embedder.load(broken)
    path = str(shapes / "images/0-0.jpg")
    picture = np.zeros((40, 40, 3), np.uint8)
    with pytest.raises(ModelError, match=r"for 2 of 2 images \(.*images/0-0\.jpg, image 1\)"):
        embedder.embed([path, picture])
    records = [Record(str(shapes / f"images/{n}-0.jpg"), "", "", 0) for n in range(7)]
    with pytest.raises(ModelError, match=r"for 7 of 7 images \(.*0-0.jpg, .*4-0.jpg, \.\.\.\)"):
        embed_records(embedder, records, bad=BadImages())
