"""Resume with another batch size, sampler, list or length."""

import logging
import os
import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from engine_process import records

import lookalike
from lookalike.commands.train import train
from lookalike.distributed.world import World
from lookalike.errors import ConfigError, RunError
from lookalike.model.embedder import Embedder
from lookalike.run import Run
from lookalike.training import checkpoint
from lookalike.training.learning_rate import LearningRateSchedule
from lookalike.training.parts import TrainingParts, TrainingSchedule
from lookalike.training.run_output import RunOutput
from lookalike.training.trainer import Trainer

STEPS = 6  # of an epoch of 48 images in batches of 8


def settings(shapes, output, **change):
    return {
        "train": str(shapes / "train.txt"), "val": str(shapes / "val.txt"),
        "output": str(output), "backbone": "test_resnet", "pretrained": False, "image_size": 32,
        "embedding_dim": 8, "batch_size": 8, "device": "cpu", "threads": 0, "log_every": 1,
        "classification_weight": 0.0, "report": False, "epochs": 4, "recipe": "component", **change,
    }  # fmt: skip


@pytest.fixture(scope="module")
def half(shapes, tmp_path_factory):
    """A run of four epochs that ended after one and a half."""
    output = tmp_path_factory.mktemp("half") / "run"
    train(**settings(shapes, output, max_steps=9))
    return output


@pytest.fixture
def resumed(shapes, half, tmp_path, caplog):
    """Resumes a copy of that run with changes; returns its new records, all steps by default."""
    output = tmp_path / "run"
    shutil.copytree(half, output)

    def resume(**change):
        before = len(records(output))
        caplog.clear()
        with caplog.at_level(logging.INFO, "lookalike"):
            train(**settings(shapes, output, **{"max_steps": None, **change}), resume=True)
        return records(output)[before:]

    resume.path = output
    return resume


def losses(found):
    return [record for record in found if "loss" in record]


def test_resume_with_another_batch_size_keeps_the_epoch(resumed, caplog):
    found = losses(resumed(batch_size=16))
    # 1.5 of 4 epochs are done; an epoch has 3 steps now: one is done of the second.
    assert [r["step"] for r in found] == list(range(10, 10 + 8))
    assert [r["epoch"] for r in found] == [2, 2, 3, 3, 3, 4, 4, 4]
    assert "batch size 8 -> 16" in caplog.text
    assert "1.5 epochs are done" in caplog.text
    # The rate is that of the epoch: 4 of 12 steps, with the warm-up of one step.
    whole = LearningRateSchedule(lr=0.03, total_steps=12, warmup_steps=100, min_lr=1e-6)
    assert [r["lr"] for r in found] == pytest.approx([whole.at(4 + n) for n in range(8)])


def test_changes_persist_across_resumes(shapes, resumed, tmp_path):
    path, plain = resumed.path, {"batch_size": 16, "schedule": "constant", "warmup_steps": 0}
    train(**settings(shapes, path, max_steps=12, **plain), resume=True)
    shutil.copytree(path, tmp_path / "other")
    found = resumed(**plain)
    train(**settings(shapes, tmp_path / "other", max_steps=14, **plain), resume=True)
    train(**settings(shapes, tmp_path / "other", **plain), resume=True)
    assert [r["epoch"] for r in losses(found)] == [3, 3, 4, 4, 4]
    other = losses(records(tmp_path / "other"))[-5:]
    assert [r["loss"] for r in other] == [r["loss"] for r in losses(found)]
    progress = checkpoint.Progress.of(
        checkpoint.read_state(path / "checkpoints/step-00000017")["progress"]
    )
    assert progress.shift == 4 - 9


def test_weights_of_images_are_part_of_the_list(resumed, tmp_path, caplog):
    file = tmp_path / "weights.txt"
    file.write_text("0 2\n")
    changed = "other images, labels or weights in the training list"
    resumed(data__weights=str(file), epochs=2)
    assert f"data.weights none -> {file}" in caplog.text
    assert changed in caplog.text
    assert not losses(resumed(data__weights=str(file), epochs=2))
    assert "resumed with" not in caplog.text
    file.write_text("0 3\n")
    assert not losses(resumed(data__weights=str(file), epochs=2))
    assert changed in caplog.text


def test_a_run_that_max_steps_ended_resumes_to_the_curve_of_an_uninterrupted_one(shapes, tmp_path):
    plain = {"schedule": "constant", "warmup_steps": 0, "epochs": 1}
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    for output, lengths in ((parts, (3, None)), (whole, (None,))):
        for steps in lengths:
            train(**settings(shapes, output, max_steps=steps, **plain), resume=steps is None)
    timeless = [
        [
            {
                k: v
                for k, v in r.items()
                if k not in ("images_per_second", "waiting", "seconds", "since_best")
            }
            for r in records(output)
        ]
        for output in (parts, whole)
    ]
    # It is measured at its end too, within its first epoch.
    (end,) = [r for r in timeless[0] if r["step"] == 3 and "map_at_r" in r]
    assert end["epoch"] == 1
    timeless[0].remove(end)
    assert timeless[0] == timeless[1]


def test_resume_with_another_sampler_and_list_keeps_the_epoch(shapes, resumed, tmp_path, caplog):
    lines = (shapes / "train.txt").read_text().splitlines()
    shorter = tmp_path / "shorter.txt"
    shorter.write_text("".join(f"{shapes}/{line}\n" for line in lines if "-5.jpg" not in line))
    found = losses(resumed(train=str(shorter), sampler="repeat_factor", repeat_threshold=20))
    assert "sampler shuffle -> repeat_factor" in caplog.text
    assert "images in the training list 48 -> 40" in caplog.text
    assert found[0]["step"] == 10
    assert found[0]["epoch"] == 2
    assert found[-1]["epoch"] == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"epochs": 1},
            r"1\.5 epochs are done, more than train\.epochs=1; give train\.epochs=2 or",
        ),
        ({"max_steps": 4}, r"9 steps are done, more than train\.max_steps=4; give train\.max_s"),
        ({"epochs": 1, "batch_size": 24}, r"1\.5 epochs are done, more than train\.epochs=1"),
        (
            {"embedding_dim": 16},
            r"cannot be resumed with model\.embedding_dim=16 \(it was 8\): its",
        ),
        (
            {"backbone": "test_efficientnet"},
            r"with model\.backbone=test_efficientnet \(it was test",
        ),
        ({"pooling": "avg"}, r"cannot be resumed with model\.pooling=avg \(it was gem\+avg\)"),
        ({"optim__name": "adamw"}, r"cannot be resumed with optim\.name=adamw \(it was sgd\)"),
        ({"ema": 0.9}, r"cannot be resumed with train\.ema=0\.9 \(it was 0\.0\)"),
        ({"head__centres": 2}, r"cannot be resumed with head\.centres=2 \(it was 1\)"),
        ({"classification_weight": 1.0}, r"with loss\.classification_weight=1\.0 \(it was 0\.0\)"),
    ],
)
def test_resume_past_the_end_is_refused(shapes, half, tmp_path, change, words):
    output = tmp_path / "run"
    shutil.copytree(half, output)
    before = {p: p.read_bytes() for p in output.rglob("*") if p.is_file() and p.name != "log.txt"}
    with pytest.raises(RunError, match=words):
        train(**settings(shapes, output, **change), resume=True)
    after = {p: p.read_bytes() for p in output.rglob("*") if p.is_file() and p.name != "log.txt"}
    assert after == before


@pytest.mark.parametrize(("before", "now"), [("sgd", "adamw"), ("adamw", "sgd")])
def test_another_optimizer_is_refused_without_class_weights_too(shapes, tmp_path, before, now):
    wanted = settings(shapes, tmp_path / "run", loss="supcon", max_steps=1, optim__name=before)
    train(**wanted)
    words = rf"cannot be resumed with optim\.name={now} \(it was {before}\): its checkpoints do not"
    with pytest.raises(RunError, match=words):
        train(**{**wanted, "max_steps": 2, "optim__name": now}, resume=True)


def test_resume_of_a_finished_run(shapes, half, tmp_path, caplog):
    output = tmp_path / "run"
    shutil.copytree(half, output)
    with caplog.at_level(logging.INFO, "lookalike"):
        train(**settings(shapes, output, max_steps=9), resume=True)
    assert "nothing is left to train" in caplog.text


def test_scores_of_another_validation_list_are_not_compared(resumed, many_shapes, caplog):
    before = [r for r in records(resumed.path) if "recall_at_1" in r]
    found = [r for r in resumed(val=str(many_shapes), epochs=2) if "recall_at_1" in r]
    assert "another validation list: the best MAP@R so far" in caplog.text
    # Measured at once on the new list, and then at the end.
    assert [r["step"] for r in found] == [9, 12]
    assert {r["val_list"] for r in found}.isdisjoint(r["val_list"] for r in before)
    best = max(found, key=lambda r: r["map_at_r"])
    latest = sorted((resumed.path / "checkpoints").glob("step-*"))[-1]
    progress = checkpoint.read_state(latest)["progress"]
    assert progress["best_score"] == best["map_at_r"]
    assert (resumed.path / "checkpoints/best").read_text() == f"step-{best['step']:08d}\n"
    run = Run(resumed.path)
    assert [r["step"] for r in run.scores()] == [9, 12]
    start = f"start: {100 * found[0]['recall_at_1']:.1f} %"
    assert start in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 48},
        {"crop_pct": 0.6},
        {"pooling": "avg+gem"},
        {"allow_truncated": True},
        {"max_image_size": "7MB"},
    ],
)
def test_scores_of_other_preprocessing_are_not_compared(shapes, resumed, caplog, change):
    found = [r for r in resumed(**change, epochs=2) if "recall_at_1" in r]
    assert "another preprocessing, pooling or reading of images: the best MAP@R so" in caplog.text
    assert [r["step"] for r in found] == [9, 12]
    assert [r["step"] for r in Run(resumed.path).scores()] == [9, 12]
    latest = sorted((resumed.path / "checkpoints").glob("step-*"))[-1]
    best = max(found, key=lambda r: r["map_at_r"])
    assert checkpoint.read_state(latest)["progress"]["best_score"] == best["map_at_r"]
    # What was measured is the model that was saved.
    measured = lookalike.evaluate(resumed.path, data=shapes / "val.txt")
    assert measured.map_at_r == pytest.approx(best["map_at_r"], abs=1e-9)


def test_a_checkpoint_of_an_older_version_keeps_its_best_score(resumed, monkeypatch, caplog):
    monkeypatch.setattr(
        checkpoint.Progress, "of",
        classmethod(
            lambda cls, saved: cls(
                **{**saved, "inputs": checkpoint.Inputs(**{**saved["inputs"], "scoring": ""})}
            )
        ),
    )  # fmt: skip
    assert [r["step"] for r in resumed(epochs=2) if "recall_at_1" in r] == [12]
    assert "is not compared" not in caplog.text


def test_moved_list_is_the_same_list(shapes, resumed, tmp_path, caplog):
    shutil.copytree(shapes, tmp_path / "moved")
    found = resumed(train=str(tmp_path / "moved/train.txt"), val=str(tmp_path / "moved/val.txt"))
    assert caplog.text.count("resumed with") == caplog.text.count("resumed with another length")
    assert [r["step"] for r in found if "recall_at_1" in r] == [12, 18, 24]


def test_every_other_changed_setting_is_listed(resumed, caplog):
    resumed(loss="arcface", lr=0.001, threads=1)
    (line,) = [r.getMessage() for r in caplog.records if "changed settings" in r.getMessage()]
    assert line == (
        "resumed with changed settings: data.threads 0 -> 1, loss.name amsoftmax -> arcface, "
        "loss.margin 0.4 -> 28.6, loss.scale 30.0 -> 64.0, optim.lr 0.03 -> 0.001"
    )


def test_another_spelling_of_a_file_is_no_change(shapes, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("optim:\n  lr: 0.01\n")
    (tmp_path / "weights.txt").write_text("0 2\n")
    backbone = Embedder.create("test_resnet", pretrained=False, image_size=32).backbone
    safetensors.torch.save_file(backbone.state_dict(), tmp_path / "a.safetensors")
    files = {"recipe": "mine.yaml", "pretrained": "a.safetensors", "data__weights": "weights.txt"}
    train(**settings(shapes, "run", max_steps=1, **files))
    for steps, folder in ((2, tmp_path), (3, "."), (4, "")):
        spelled = {key: os.path.join(folder, name) for key, name in files.items()}
        caplog.clear()
        train(**settings(shapes, tmp_path / "run", max_steps=steps, **spelled), resume=True)
        assert "changed settings" not in caplog.text
    (tmp_path / "other.yaml").write_text("optim:\n  lr: 0.01\n")
    with pytest.raises(ConfigError, match=r"train.recipe=other.yaml is for new runs"):
        train(**settings(shapes, "run", **{**files, "recipe": "other.yaml"}), resume=True)


def test_a_recipe_is_the_same_from_another_folder(shapes, tmp_path, monkeypatch, caplog):
    began, elsewhere = tmp_path / "began", tmp_path / "elsewhere"
    for folder in (began, elsewhere):
        folder.mkdir()
        (folder / "mine.yaml").write_text("optim:\n  lr: 0.01\n")
    monkeypatch.chdir(began)
    output = tmp_path / "run"
    train(**settings(shapes, output, max_steps=1, recipe="mine.yaml"))
    monkeypatch.chdir(elsewhere)
    caplog.clear()
    # With the saved request for all else, and with a complete one.
    train(output=str(output), resume=True, max_steps=2, recipe=str(began / "mine.yaml"))
    for steps, recipe in ((3, "../began/mine.yaml"), (4, str(began / "mine.yaml"))):
        train(**settings(shapes, output, max_steps=steps, recipe=recipe), resume=True)
    assert "changed settings" not in caplog.text
    with pytest.raises(ConfigError, match=r"elsewhere/mine.yaml is for new runs, .*began/mine.y"):
        train(
            **settings(shapes, output, max_steps=5, recipe=str(elsewhere / "mine.yaml")),
            resume=True,
        )
    # A folder that was moved with its recipe, given as before.
    train(**settings(shapes, tmp_path / "new", max_steps=1, recipe="mine.yaml"))
    monkeypatch.chdir(elsewhere.rename(tmp_path / "moved"))
    caplog.clear()
    train(**settings(shapes, tmp_path / "new", max_steps=2, recipe="mine.yaml"), resume=True)
    assert "changed settings" not in caplog.text


def test_files_are_the_same_from_another_folder(shapes, tmp_path, monkeypatch, caplog):
    began, elsewhere = tmp_path / "began", tmp_path / "elsewhere"
    elsewhere.mkdir()
    began.mkdir()
    (began / "weights.txt").write_text("0 2\n")
    backbone = Embedder.create("test_resnet", pretrained=False, image_size=32).backbone
    safetensors.torch.save_file(backbone.state_dict(), began / "a.safetensors")
    files = {"pretrained": "a.safetensors", "data__weights": "weights.txt"}
    monkeypatch.chdir(began)
    output = tmp_path / "run"
    train(**settings(shapes, output, max_steps=1, data__cache="cache", **files))
    monkeypatch.chdir(elsewhere)
    caplog.clear()
    for steps, folder in ((2, began), (3, "../began")):
        spelled = {key: os.path.join(folder, name) for key, name in files.items()}
        spelled["data__cache"] = os.path.join(folder, "cache")
        train(**settings(shapes, output, max_steps=steps, **spelled), resume=True)
    assert "changed settings" not in caplog.text
    (elsewhere / "b.safetensors").write_bytes((began / "a.safetensors").read_bytes())
    spelled["pretrained"] = "b.safetensors"
    train(**settings(shapes, output, max_steps=4, **spelled), resume=True)
    assert "model.pretrained ../began/a.safetensors -> b.safetensors (without" in caplog.text


@pytest.mark.parametrize("change", [{"time_budget": "1h"}, {"recipe": "auto"}])
def test_settings_of_new_runs_are_refused(resumed, change):
    with pytest.raises(ConfigError, match=r"is for new runs, and .* began with (none|component)"):
        resumed(**change)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "train.max_steps 9 -> none; the last step is 24 (it was 9), LONGER"),
        (
            {"epochs": 2, "batch_size": 16},
            "train.epochs 4 -> 2, train.max_steps 9 -> none; the last step is 11 (it was 9), "
            "LONGER",
        ),
        ({"epochs": 5, "max_steps": 9}, "train.epochs 4 -> 5; the last step is 9 (it was 9)"),
        (
            {"max_steps": 12, "schedule": "constant"},
            "train.max_steps 9 -> 12; the last step is 12 (it was 9)",
        ),
        ({"max_steps": 9}, None),
    ],
)
def test_another_length_and_its_effect_are_one_line(resumed, caplog, change, expected):
    resumed(**change)
    said = [r.getMessage() for r in caplog.records if "another length" in r.getMessage()]
    follows = "and the learning rate follows it: that of a"
    if expected is None:
        assert not said
        return
    expected = expected.replace("LONGER", f"{follows} longer run is higher")
    assert said == [f"resumed with another length: {expected}"]


def test_a_shorter_run_learns_at_a_lower_rate(resumed, caplog):
    for name in ("config.yaml", "resolved.yaml"):  # as of a run of 20 steps that was interrupted
        file = resumed.path / name
        text = file.read_text()
        assert text.count("max_steps: 9\n") == 1
        file.write_text(text.replace("max_steps: 9\n", "max_steps: 20\n"))
    found = losses(resumed(max_steps=12))
    assert "the last step is 12 (it was 20), and the learning rate follows it: that" in caplog.text
    assert "that of a shorter run is lower" in caplog.text
    rate = LearningRateSchedule(lr=0.03, total_steps=12, warmup_steps=100, min_lr=1e-6)
    assert [r["lr"] for r in found] == pytest.approx([rate.at(step) for step in (9, 10, 11)])


@pytest.mark.parametrize("loss", ["amsoftmax", "proxy_anchor"])
def test_a_loss_on_coarser_classes_is_named_where_it_does_not_fit(shapes, tmp_path, loss):
    for levels in (1, 2):
        lines = (f"{label} {'a b'[: 2 * levels - 1]}\n" for label in [*range(8), *range(100, 105)])
        (tmp_path / f"{levels}.txt").write_text("".join(lines))
    wanted = settings(shapes, tmp_path / "run", max_steps=1, loss=loss)
    wanted["data__hierarchy"] = str(tmp_path / "1.txt")
    train(**wanted)
    with pytest.raises(RunError, match=r"with loss\.hierarchy_weight=0\.5 \(it was 0\.0\): its"):
        train(**{**wanted, "max_steps": 2, "hierarchy_weight": 0.5}, resume=True)
    wanted |= {"output": str(tmp_path / "with"), "hierarchy_weight": 0.5}
    train(**wanted)
    with pytest.raises(RunError, match=r"with data\.hierarchy=.*2\.txt \(it was .*1\.txt\): its"):
        train(**{**wanted, "max_steps": 2, "data__hierarchy": str(tmp_path / "2.txt")}, resume=True)


def test_early_stopping_ends_a_run_and_is_resumed(shapes, tmp_path, caplog):
    # A rate of next to nothing: the start stays the best.
    wanted = settings(
        shapes, tmp_path / "run", lr=1e-12, early_stopping=2, epochs=9, max_steps=None
    )
    with caplog.at_level(logging.INFO, "lookalike"):
        run = train(**wanted)
    assert "early stopping at step 12: no better score in 2 measurements" in caplog.text
    assert [r["since_best"] for r in run.scores()] == [0, 1, 2]
    assert (run.checkpoints / "latest").read_text() == "step-00000012\n"
    before = run.metrics.read_text()
    train(**wanted, resume=True)
    assert run.metrics.read_text() == before
    train(**{**wanted, "early_stopping": 3}, resume=True)
    assert [r["since_best"] for r in run.scores()] == [0, 1, 2, 3]


def test_early_stopping_follows_the_main_worker(tmp_path):
    class Second(World):
        def broadcast(self, tensor):
            return torch.full_like(tensor, next(of_main))

    scores = {"recall_at_1": 0.5, "map_at_r": 0.5}
    of_main, own = iter([0.5, 0.5, 0.5, 0.4]), iter([0.5, 0.5 + 1e-9, 0.5, 0.6])
    world = Second(rank=1, size=2)
    trainer = Trainer(
        TrainingParts(
            loader=None, step=None, bad_images=None, inputs=None,
            trained=SimpleNamespace(
                average=None, heads={"metric": None},
                whole=lambda: nullcontext(SimpleNamespace(embedder=None)),
            ),
            validator=SimpleNamespace(measure=lambda *_, **__: (next(own), scores)),
        ),
        schedule=TrainingSchedule(total_steps=9, patience=2), learning_rate=None,
        output=RunOutput(Run(tmp_path), world=world), world=world,
    )  # fmt: skip
    found = []
    for due in (True, True, False, True):  # the third is that of a run that ends within an epoch
        improved = trainer.measure(1, due=due)
        found.append((improved, trainer.progress.since_best, trainer.out_of_patience))
    assert found == [(True, 0, False), (False, 1, False), (False, 1, False), (False, 2, True)]


@pytest.mark.parametrize("change", [{"val": None}, {"eval_every": 0}])
def test_early_stopping_needs_measurements(shapes, tmp_path, change):
    with pytest.raises(ConfigError, match=r"train\.early_stopping=2 needs"):
        train(**settings(shapes, tmp_path / "run", early_stopping=2, **change))


def test_more_micro_batches_than_images_are_refused(shapes, tmp_path):
    with pytest.raises(ConfigError, match=r"train\.accumulate=9 .* use train\.accumulate=8 or"):
        train(**settings(shapes, tmp_path / "run", accumulate=9))
