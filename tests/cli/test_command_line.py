"""The command line: every backbone, every loss, every mistake."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import lookalike
from lookalike import cli
from lookalike.losses import MARGINS
from lookalike.model import BACKBONES
from program import run

SMALL = [
    "model.pretrained=false", "model.image_size=48", "model.embedding_dim=32",
    "train.batch_size=8", "train.log_every=1", "data.threads=2", "run.device=cpu",
]  # fmt: skip


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


FEW = ("resnet18", "swint_tiny", "vit_tiny", "xcit_tiny")  # of each family


@pytest.mark.parametrize(
    "backbone", [pytest.param(b, marks=() if b in FEW else pytest.mark.slow) for b in BACKBONES]
)
def test_every_backbone_takes_a_step(monkeypatch, shapes, tmp_path, backbone):
    output = tmp_path / "run"
    code = run(
        monkeypatch, "train", "--train", shapes / "train.txt", "--output", output,
        "--backbone", backbone, "train.max_steps=1", *SMALL,
    )  # fmt: skip
    assert code == 0
    [record] = records(output)
    assert record["step"] == 1
    assert math.isfinite(record["loss"])
    assert record["skipped"] == 0
    assert lookalike.load(output, device="cpu").backbone.name == backbone
    shutil.rmtree(output)  # some weigh a gigabyte


@pytest.mark.parametrize("parallel", ["data", pytest.param("model", marks=pytest.mark.slow)])
@pytest.mark.parametrize("loss", MARGINS)
def test_every_loss_trains(monkeypatch, shapes, tmp_path, loss, parallel):
    output = tmp_path / "run"
    code = run(
        monkeypatch, "train", "--train", shapes / "train.txt", "--val", shapes / "val.txt",
        "--output", output, "--backbone", "test_resnet", "--loss", loss, "train.max_steps=2",
        f"head.parallel={parallel}", "recipe=component", *SMALL,
    )  # fmt: skip
    assert code == 0
    steps = [r for r in records(output) if "loss" in r]
    assert [r["step"] for r in steps] == [1, 2]
    assert all(math.isfinite(r["loss"]) for r in steps)
    assert {r["step"] for r in records(output) if "map_at_r" in r} == {0, 2}
    # The classification branch is the component's: beside the dense head only.
    assert ("classification_loss" in steps[0]) == (parallel == "data")


@pytest.fixture(scope="module")
def trained(shapes, tmp_path_factory):
    """A run that learned the shapes; its loss must have fallen for the tests to mean anything."""
    output = tmp_path_factory.mktemp("trained") / "run"
    lookalike.train(
        train=str(shapes / "train.txt"), val=str(shapes / "val.txt"), output=str(output),
        backbone="test_resnet", epochs=15, pretrained=False, image_size=48, embedding_dim=32,
        batch_size=8, log_every=1, threads=2, device="cpu", min_crop=0.7, checkpoint_every=5,
    )  # fmt: skip
    return output


def test_training_learns_and_writes_the_documented_files(trained):
    steps = [r["loss"] for r in records(trained) if "loss" in r]
    assert np.mean(steps[-6:]) < 0.6 * np.mean(steps[:6])
    for name in (
        "config.yaml", "classes.json", "metrics.jsonl", "log.txt", "model/model.safetensors",
        "model/config.json", "checkpoints/latest", "checkpoints/best",
    ):  # fmt: skip
        assert (trained / name).exists(), name
    latest = (trained / "checkpoints/latest").read_text().strip()
    assert (trained / "checkpoints" / latest / "state.json").exists()
    first = records(trained)[0]
    assert (first["step"], first["epoch"]) == (0, 0)
    assert {"recall_at_1", "recall_at_2", "recall_at_4", "recall_at_8", "map_at_r"} <= first.keys()
    assert {"step", "epoch", "loss", "lr", "images_per_second"} <= records(trained)[1].keys()


def test_the_model_is_the_best_by_map_at_r(trained, shapes):
    scores = lookalike.evaluate(trained, str(shapes / "val.txt"), device="cpu")
    best = max(r["map_at_r"] for r in records(trained) if "map_at_r" in r)
    assert scores.map_at_r == pytest.approx(best, abs=1e-6)


def test_evaluation_by_several_workers_refuses_standard_input(monkeypatch, trained, capsys):
    assert run(monkeypatch, "evaluate", trained, "--data", "-", "--workers", "2") == 2
    assert "error: -: can be read only once" in capsys.readouterr().err


def test_evaluate_prints_json(monkeypatch, trained, shapes, capsys):
    assert run(monkeypatch, "evaluate", trained, "--data", shapes / "val.txt", "--json") == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["queries"] == 20
    assert 0 <= scores["map_at_r"] <= scores["recall_at_1"] <= scores["recall_at_8"] <= 1


def test_embed_writes_the_vectors_of_python(monkeypatch, trained, shapes, tmp_path):
    images = sorted((shapes / "images").glob("10*.jpg"))
    for name in ("v.npy", "v.parquet"):
        code = run(monkeypatch, "embed", trained, shapes / "images", "-o", tmp_path / name)
        assert code == 0
    rows = (tmp_path / "v.paths.txt").read_text().splitlines()
    table = pq.read_table(tmp_path / "v.parquet")
    assert table["path"].to_pylist() == rows == sorted(map(str, (shapes / "images").glob("*.jpg")))
    vectors = np.load(tmp_path / "v.npy")
    assert np.array_equal(vectors, np.stack(table["vector"].to_numpy()))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    found = lookalike.load(trained, device="cpu").embed([str(path) for path in images])
    assert found.dtype == np.float32
    written = vectors[[rows.index(str(path)) for path in images]]
    assert np.allclose(found, written, atol=2e-6)


def test_embed_takes_lists_with_and_without_labels(monkeypatch, trained, shapes, tmp_path):
    plain = shapes / "plain.txt"
    plain.write_text("# two\nimages/100-0.jpg\n\nimages/101-0.jpg\n")
    assert run(monkeypatch, "embed", trained, plain, "-o", tmp_path / "p.npy") == 0
    assert run(monkeypatch, "embed", trained, shapes / "val.txt", "-o", tmp_path / "l.npy") == 0
    assert np.load(tmp_path / "p.npy").shape == (2, 32)
    assert np.load(tmp_path / "l.npy").shape == (20, 32)


def test_embed_names_skipped_images(monkeypatch, trained, shapes, tmp_path, caplog):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    code = run(
        monkeypatch, "embed", trained, shapes / "images/100-0.jpg", tmp_path / "broken.jpg",
        "-o", tmp_path / "v.npy",
    )  # fmt: skip
    assert code == 0
    assert "broken.jpg" in caplog.text
    assert np.load(tmp_path / "v.npy").shape == (1, 32)


def test_resume_continues_and_a_used_directory_is_refused(monkeypatch, shapes, tmp_path, capsys):
    output = tmp_path / "run"
    words = ["train", "--train", shapes / "train.txt", "--output", output,
             "--backbone", "test_resnet", *SMALL]  # fmt: skip
    assert run(monkeypatch, *words, "--epochs", 1) == 0
    assert run(monkeypatch, *words, "--epochs", 1) == 2
    assert "holds a run already; add --resume" in capsys.readouterr().err
    assert run(monkeypatch, "train", "--resume", "--output", output, "--epochs", 2) == 0
    assert [r["step"] for r in records(output)] == list(range(1, 13))
    assert "6 steps an epoch, 6 of 12 steps to do" in (output / "log.txt").read_text()


def test_a_start_that_stays_the_best_is_reported(monkeypatch, shapes, tmp_path, caplog):
    output = tmp_path / "run"
    code = run(
        monkeypatch, "train", "--train", shapes / "train.txt", "--val", shapes / "val.txt",
        "--output", output, "--backbone", "test_resnet", "train.max_steps=1",
        "train.freeze_backbone=true", "optim.lr=1e-12", *SMALL,
    )  # fmt: skip
    assert code == 0
    assert "training did not improve MAP@R over the start" in caplog.text
    assert (output / "checkpoints/best").read_text() == "step-00000000\n"


def test_training_without_validation_is_warned_of(monkeypatch, shapes, tmp_path, caplog):
    words = ["train", "--train", shapes / "train.txt", "--backbone", "test_resnet",
             "train.max_steps=1", *SMALL]  # fmt: skip
    assert run(monkeypatch, *words, "--output", tmp_path / "a") == 0
    assert "the quality of the model is NOT measured" in caplog.text
    assert run(monkeypatch, *words, "--output", tmp_path / "b", "data.val_fraction=0.3") == 0
    assert records(tmp_path / "b")[0]["queries"] == 12
    assert len(json.loads((tmp_path / "b/classes.json").read_text())["classes"]) == 6


def test_accuracy_by_class_centres_when_labels_are_known(monkeypatch, shapes, tmp_path):
    words = ["train", "--train", shapes / "train.txt", "--val", shapes / "train.txt",
             "--output", tmp_path / "a", "--backbone", "test_resnet", "--epochs", 8,
             "data.min_crop=0.7", *SMALL]  # fmt: skip
    assert run(monkeypatch, *words) == 0
    accuracy = [r["accuracy"] for r in records(tmp_path / "a") if "accuracy" in r]
    assert len(accuracy) == 9
    assert accuracy[-1] > 0.5 > accuracy[0] or accuracy[-1] > accuracy[0]


MISTAKES = {
    "no list": ([], "nothing to train on"),
    "no output": (["--train", "{train}"], "nowhere to write to"),
    "empty list": (
        ["--train", "", "--output", "{out}"], "data.train='' is empty; give a value, or leave",
    ),
    "missing list": (["--train", "none.txt", "--output", "{out}"], "none.txt: no such file"),
    "missing val": (
        ["--train", "{train}", "--val", "v.txt", "--output", "{out}"], "v.txt: no such file",
    ),
    "unknown backbone": (
        ["--train", "{train}", "--output", "{out}", "--backbone", "resnet5O",
         "model.pretrained=false"], "model.backbone='resnet5O' is neither",
    ),
    "unknown loss": (
        ["--train", "{train}", "--output", "{out}", "--loss", "arcfac"],
        "or 'recall_at_k'; did you mean arcface?",
    ),
    "contradicting dimension": (
        ["--train", "{train}", "--output", "{out}", "--backbone", "test_resnet",
         "model.pretrained=false", "model.backbone_dim=100"],
        "model.backbone_dim=100 contradicts test_resnet, whose feature map has 96 channels",
    ),
    "radians": (
        ["--train", "{train}", "--output", "{out}", "--backbone", "test_resnet",
         "model.pretrained=false", "--loss", "arcface", "loss.margin=0.5"], "loss.margin=0.5",
    ),
    "too few classes": (
        ["--train", "{train}", "--output", "{out}", "data.num_classes=5"], "train.txt:31",
    ),
    "no hub": (
        ["--train", "{train}", "--output", "{out}", "--backbone", "test_resnet"],
        "model.pretrained=false",
    ),
    "no class token": (
        ["--train", "{train}", "--output", "{out}", "--backbone", "test_resnet",
         "model.pretrained=false", "model.pooling=cls"], "has no class token",
    ),
    "two validations": (
        ["--train", "{train}", "--val", "{train}", "--output", "{out}", "data.val_fraction=0.1"],
        "exclude each other",
    ),
    "secrets in a remote output": (
        ["--train", "{train}", "--output", "oss://me:key@bucket/x"],
        "run.output=oss://bucket/x: has user info",
    ),
    "output on a web server": (
        ["--train", "none.txt", "--output", "https://example.com/run"],
        "https://example.com/run: nothing can be written to a web server",
    ),
    "output in a storage that is not supported": (
        ["--train", "none.txt", "--output", "abfs://box@account.dfs.core.windows.net/run"],
        "abfs:// is not supported; supported are",
    ),
    "an option that is a setting": (
        ["--train", "{train}", "--lr", "0.1"],
        "error: --lr is no option; settings are written without dashes: optim.lr=0.1",
    ),
    "an option that is a setting by another name": (
        ["--train", "{train}", "--learning-rate=0.1"], "without dashes: optim.lr=0.1",
    ),
    "a missing label": (
        ["--train", "{nan}", "--output", "{out}", "--backbone", "test_resnet",
         "model.pretrained=false"], "nan.csv:3: label 'nan' is",
    ),
    "validation without pairs": (
        ["--train", "{train}", "--val", "{lone}", "--output", "{out}", "--backbone",
         "test_resnet", "model.pretrained=false"],
        "lone.txt: retrieval cannot be measured: no class has two images",
    ),
    "validation of one class": (
        ["--train", "{train}", "--val", "{alike}", "--output", "{out}", "--backbone",
         "test_resnet", "model.pretrained=false"],
        "alike.txt: retrieval cannot be measured: all 4 images to find are of one class",
    ),
    "a split of a list without any": (
        ["--train", "{train}", "--output", "{out}", "data.train_split=tain"],
        "train.txt: no row names a split, so none is of the split 'tain'",
    ),
    "a validation split that is not there": (
        ["--train", "{train}", "--output", "{out}", "data.val_split=test"],
        "train.txt: no row names a split, so none is of the split 'test'",
    ),
    "a split of a validation list without any": (
        ["--train", "{train}", "--val", "{train}", "--output", "{out}", "data.val_split=test"],
        "train.txt: no row names a split, so none is of the split 'test'",
    ),
    "output is a file": (
        ["--train", "{train}", "--output", "{train}/x"], "cannot be made",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [
        ["embed", "none", "none.txt", "-o", "https://example.com/run/x.npy"],
        ["doctor", "--train", "none.txt", "--output", "https://example.com/run"],
        ["report", "{out}", "--output", "https://example.com/run/x.html"],
    ],
    ids=lambda words: words[0],
)
def test_an_output_on_a_web_server_is_refused_before_the_work(monkeypatch, tmp_path, capsys, words):
    (tmp_path / "config.yaml").write_text("data: {train: none.txt}\n")
    assert run(monkeypatch, *(word.format(out=tmp_path) for word in words)) == 2
    assert "/run" in (err := capsys.readouterr().err)
    assert "nothing can be written to a web server" in err


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_line_and_exit_code_2(
    monkeypatch, shapes, tmp_path, capsys, mistake
):
    words, message = MISTAKES[mistake]
    (tmp_path / "nan.csv").write_text("path,label\na.jpg,1\nb.jpg,nan\nc.jpg,2\n")
    (tmp_path / "lone.txt").write_text("a.jpg 1\nb.jpg 2\n")
    (tmp_path / "alike.txt").write_text("".join(f"{name}.jpg 1\n" for name in "abcd"))
    places = {"train": shapes / "train.txt", "out": tmp_path / "out"}
    places |= {"nan": tmp_path / "nan.csv", "lone": tmp_path / "lone.txt"}
    places["alike"] = tmp_path / "alike.txt"
    assert run(monkeypatch, "train", *(word.format(**places) for word in words)) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    assert not (tmp_path / "out/config.yaml").exists()


def test_bad_images_within_the_limit_are_named_and_above_it_stop_the_run(
    monkeypatch, shapes, tmp_path, capsys, caplog
):
    shapes = shutil.copytree(shapes, tmp_path / "shapes")  # other tests count its images
    (shapes / "images/broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    lines = (shapes / "train.txt").read_text()
    bad = shapes / "bad.txt"
    bad.write_text(lines + "images/broken.jpg 3\nimages/gone.jpg 3\n")
    words = ["train", "--train", bad, "--backbone", "test_resnet", "--epochs", 3, *SMALL]
    assert run(monkeypatch, *words, "--output", tmp_path / "a", "data.max_bad_images=2") == 0
    shown = caplog.text
    assert f"{bad}:49: " in shown
    assert f"{bad}:50: " in shown
    found = [json.loads(x) for x in (tmp_path / "a/bad_images.jsonl").read_text().splitlines()]
    assert {record["row"] for record in found} == {48, 49}
    assert run(monkeypatch, *words, "--output", tmp_path / "b") == 2
    error = capsys.readouterr().err
    assert "2 of 50 images cannot be read, more than the 1" in error
    assert "images/gone.jpg" in error
    assert "data.image_root" not in error
    bad.write_text(lines + "images/lost.jpg 3\nimages/gone.jpg 3\n")
    assert run(monkeypatch, *words, "--output", tmp_path / "c") == 2
    assert "or at data.image_root. The first ones:" in capsys.readouterr().err


@pytest.mark.parametrize("worker", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_worker_that_fails_leaves_at_once(worker):
    """Nothing of Python's end is run, in which threads of its open group could abort it."""
    program = (
        "import atexit, sys; from lookalike import cli; atexit.register(print, 'torn down'); "
        "sys.argv = ['lookalike', 'train', '--output', 'x']; cli.main()"
    )
    environment = {k: v for k, v in os.environ.items() if k != "LOCAL_RANK"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment | ({"LOCAL_RANK": "0"} if worker else {}),
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: nothing to train on")
    assert done.stdout == ("" if worker else "torn down\n")


def test_the_list_of_commands_has_whole_sentences(monkeypatch, capsys):
    assert run(monkeypatch, "--help") == 0
    listed = capsys.readouterr().out.split("Commands:\n")[1].splitlines()
    assert len([line for line in listed if line.strip()]) == len(cli.COMMANDS)
    assert [line for line in listed if "..." in line] == []


def test_help_and_settings_do_not_show_a_default_that_the_recipe_replaces(monkeypatch, capsys):
    assert run(monkeypatch, "train", "--settings") == 0
    settings = capsys.readouterr().out
    assert "optim.lr (float, recipe; component: 0.03)" in settings
    assert "train.loggers (list[tensorboard | wandb | mlflow | trackio], ())" in settings
    assert "train.seed (int, 0)" in settings
    assert run(monkeypatch, "train", "--help") == 0
    shown = capsys.readouterr().out
    assert "0.03" not in shown
    assert "amsoftmax." not in shown


@pytest.mark.parametrize("words", [["train"], ["train", "--train", "a.txt"]])
def test_what_is_missing_is_said_before_torch_is_imported(words):
    program = (
        "import sys\nfrom lookalike import cli\n"
        f"sys.argv = {['lookalike', *words]}\n"
        "try:\n    cli.main()\nfinally:\n    assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: no")
