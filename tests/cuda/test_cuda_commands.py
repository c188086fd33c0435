"""Commands on a device: each one and each kind of loss, once."""

import numpy as np
import pytest
import torch
from small_run import settings

import lookalike


@pytest.mark.parametrize(
    "change",
    [
        {"loss": "magface", "nested_dims": None},
        {"loss": "adaface", "freeze_backbone_epochs": 1, "freeze_batchnorm": True},
        {"loss": "curricularface", "head__centres": 2, "clip_grad_norm": 1.0},
        {"loss": "adaptive_arcface", "label_smoothing": 0.1},
        {"loss": "arcface", "nested_dims": [4, 8], "filter_above": 0.8},
        {"loss": "large_margin_softmax", "optim__name": "adamw", "fused_update": True},
        {"loss": "arcface", "parallel": "model", "sample_rate": 0.4, "optim__name": "adamw"},
    ],
    ids=lambda change: change["loss"],
)
def test_kinds_of_losses_and_heads_train_and_are_measured(shapes, device, tmp_path, change):
    change = {key: value for key, value in change.items() if value is not None}
    run = lookalike.train(
        **settings(
            shapes, tmp_path / "run", device, val=str(shapes / "val.txt"), max_steps=2, **change
        )
    )
    steps = [record for record in run.read(run.metrics) if "loss" in record]
    assert len(steps) == 2
    assert all(np.isfinite(record["loss"]) and not record["skipped"] for record in steps)


def test_beginning_with_an_earlier_run(run, shapes, device, tmp_path):
    again = lookalike.train(
        **settings(
            shapes, tmp_path / "run", device, start_from=str(run.path), max_steps=1,
            val=str(shapes / "train.txt"),
        )
    )  # fmt: skip
    assert "accuracy" in run.scores()[0] or "accuracy" in again.scores()[0]


def test_comparing_two_models_with_every_figure(run, shapes, device):
    pytest.importorskip("pyarrow.lib")
    data, path = str(shapes / "train.txt"), str(run.path)
    more = {"full": True, "verification": True, "nmi": True, "precision": (1, 3), "threads": 2}
    found = [lookalike.compare([path, path], data, device=d, **more) for d in (device.type, "cpu")]
    first, other = (one.evaluations[0] for one in found)
    assert first.scores.num_queries == other.scores.num_queries == 48
    assert first.scores.map_at_r == pytest.approx(other.scores.map_at_r, abs=0.1)
    assert first.verification.auc == pytest.approx(other.verification.auc, abs=0.1)


def test_improving_a_model(run, many_shapes, device):
    pytest.importorskip("pyarrow.lib")
    found = lookalike.improve(str(run.path), str(many_shapes), device=device.type, threads=2)
    assert found


def test_a_report_and_the_faults_of_a_list(run, shapes, device, tmp_path):
    pytest.importorskip("pyarrow.lib")
    page = tmp_path / "report.html"
    lookalike.report(str(run.path), output=str(page), device=device.type, threads=2)
    assert "Recall@1" in page.read_text()
    config = lookalike.Config().with_values({"run.device": device.type, "data.threads": 2})
    lookalike.doctor(config, run=str(run.path), data=str(shapes / "train.txt"))


def test_searching_and_embedding_from_files(run, shapes, device, tmp_path):
    pytest.importorskip("pyarrow.lib")
    gallery = sorted(map(str, (shapes / "images").glob("10*.jpg")))
    found = lookalike.search(
        str(run.path), gallery[:2], gallery=gallery, k=2, device=device.type, threads=2
    )
    assert found
    output = tmp_path / "vectors.npy"
    lookalike.embed(
        str(run.path), str(shapes / "val.txt"), output=str(output), device=device.type, threads=2
    )
    vectors = np.load(output)
    assert vectors.shape == (20, 16)
    assert np.isfinite(vectors).all()


def test_measured_plan(device, shapes, tmp_path):
    if device.type == "cuda" and not torch.cuda.is_initialized():
        pytest.skip("measures in processes of its own, which cannot be pretended")
    plan = lookalike.plan(
        lookalike.Config().with_settings(
            settings(shapes, tmp_path, device, max_steps=None, train__precision="bf16")
        ),
        classes=1000, images=10_000,
    )  # fmt: skip
    assert plan
