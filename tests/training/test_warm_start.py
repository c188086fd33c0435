"""Start from the weights of an earlier run: rows follow their labels."""

import json
import logging
import re
import shutil

import pytest
import safetensors.torch
import torch
from engine_process import TINY, call, records

import lookalike
from lookalike.commands.train import train
from lookalike.errors import RunError
from lookalike.losses.class_weights import initial_weight
from lookalike.training.trainer import Trainer

DIM, CENTRES = 12, 2
OLD = [str(klass) for klass in range(8)]
# Another order, two gone, two new.
NEW = ["6", "5", "new-a", "7", "0", "3", "new-b", "2"]


def tiny(shapes, **more):
    settings = {
        "backbone": "test_resnet", "pretrained": False, "image_size": 32, "embedding_dim": DIM,
        "batch_size": 8, "device": "cpu", "centres": CENTRES, "classification_weight": 1,
        "lr": 0.1, "threads": 2, "max_steps": 1, "train": str(shapes / "train.txt"),
    }  # fmt: skip
    return {**settings, **more}


@pytest.fixture(scope="module")
def old(shapes, tmp_path_factory):
    """A run of 9 steps with an average of the weights, and checkpoints at 0, 6 and 9."""
    path = tmp_path_factory.mktemp("warm") / "old"
    train(**tiny(shapes, max_steps=9), output=str(path), ema=0.5, checkpoint_every=1,
          keep_checkpoints=9)  # fmt: skip
    return path


@pytest.fixture(scope="module")
def changed(shapes):
    """The list with classes 1 and 4 gone and two new ones, whose pictures are theirs."""
    lines = (shapes / "train.txt").read_text().splitlines()
    names = {"1": "new-a", "4": "new-b"}
    told = [(path, label) for path, label in (line.rsplit(" ", 1) for line in lines)]
    path = shapes / "changed.txt"
    path.write_text("".join(f"{place} {names.get(label, label)}\n" for place, label in told))
    return path


def head(run, step, name="metric"):
    """Rows of all classes (C, K, D) and the tensors of all files of a head."""
    folder = run / f"checkpoints/step-{step:08d}"
    files = [
        safetensors.torch.load_file(file) for file in sorted(folder.glob(f"head-{name}-*"))
    ]  # fmt: skip
    weight = torch.cat([file["weight"] for file in files])
    return weight.unflatten(0, (-1, CENTRES if name == "metric" else 1)), files


def expected_rows(run, step, name, classes, seed):
    """Rows that are asked for, written out: by label, new ones at the median length."""
    rows, _ = head(run, step, name)
    centres = rows.shape[1]
    drawn = initial_weight(range(len(classes) * centres), DIM, seed=seed, std=0.01)
    drawn = torch.nn.functional.normalize(drawn, dim=1).unflatten(0, (-1, centres))
    kept = torch.stack([rows[OLD.index(label)] for label in classes if label in OLD])
    median = kept.norm(dim=2).flatten().sort().values[(kept.shape[0] * centres - 1) // 2]
    return torch.stack(
        [
            rows[OLD.index(label)] if label in OLD else drawn[row] * median
            for row, label in enumerate(classes)
        ]
    )


def assert_rows(found, expected, classes):
    for label, mine, row in zip(classes, found, expected, strict=True):
        if label in OLD:
            assert torch.equal(mine, row), label
        else:
            torch.testing.assert_close(mine, row, msg=label)


def test_rows_follow_their_labels(shapes, old, changed, tmp_path, caplog):
    new = tmp_path / "new"
    with caplog.at_level(logging.INFO, "lookalike"):
        train(**tiny(shapes, train=str(changed), seed=3), output=str(new), start_from=str(old),
              data__classes=NEW)  # fmt: skip
    assert (
        f"start from {old} (step 9, its newest): 6 of 8 classes keep their weights, "
        "2 are new (new-a, new-b), 2 are gone (1, 4)"
    ) in caplog.messages
    for name, seed in (("metric", 3), ("classification", 4)):
        rows, files = head(new, 0, name)
        assert_rows(rows, expected_rows(old, 9, name, NEW, seed), NEW)
        assert not [key for file in files for key in file if key.startswith("optimizer.")]

    begun = safetensors.torch.load_file(new / "checkpoints/step-00000000/network.safetensors")
    folder = old / "checkpoints/step-00000009"
    average = safetensors.torch.load_file(folder / "ema.safetensors")
    network = safetensors.torch.load_file(folder / "network.safetensors")
    assert begun.keys() == network.keys()
    for name, value in begun.items():
        source = average.get(name.removeprefix("embedder."), network[name])
        assert torch.equal(value, source), name


def test_unchanged_labels_give_the_same_model(shapes, old, tmp_path):
    """The first loss goes on where the earlier run ended: far below that of a new one."""
    cold, warm = tmp_path / "cold", tmp_path / "warm"
    train(**tiny(shapes), output=str(cold))
    train(**tiny(shapes), output=str(warm), start_from=str(old), ema=0.9)
    for name in ("metric", "classification"):
        assert torch.equal(head(warm, 0, name)[0], head(old, 9, name)[0])
    assert records(warm)[0]["loss"] < 0.8 * records(cold)[0]["loss"]
    # The average of the new run begins with the network that it took over, too.
    folder = warm / "checkpoints/step-00000000"
    average = safetensors.torch.load_file(folder / "ema.safetensors")
    network = safetensors.torch.load_file(folder / "network.safetensors")
    for name, value in average.items():
        assert torch.equal(value, network[f"embedder.{name}"]), name


@pytest.mark.slow
def test_each_worker_loads_its_own_rows(shapes, old, changed, tmp_path):
    """Two workers with uneven shares, from the file of one, and one from the files of two."""
    classes = [*NEW, "1"]
    wide, back = tmp_path / "wide", tmp_path / "back"
    more = ["model.backbone=test_resnet", "run.device=cpu", "head.parallel=model",
            "head.centres=2", "loss.classification_weight=1", "train.max_steps=1",
            *TINY, f"model.embedding_dim={DIM}"]  # fmt: skip
    done = call(
        "train", "--train", str(changed), "--output", str(wide), "--workers", "2",
        f"train.start_from={old}", f"data.classes={json.dumps(classes)}", *more, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("7 of 9 classes keep their weights, 2 are new") == 1
    rows, files = head(wide, 0)
    assert [len(file["weight"]) for file in files] == [10, 8]
    assert_rows(rows, expected_rows(old, 9, "metric", classes, 0), classes)

    train(
        **tiny(shapes),
        output=str(back),
        head__parallel="model",
        start_from=str(wide / "checkpoints/step-00000001"),
    )
    first, last = head(back, 0)[0], head(wide, 1)[0]
    for row, label in enumerate(OLD):
        if label != "4":
            assert torch.equal(first[row], last[classes.index(label)])


def test_best_checkpoint_is_preferred_to_the_newest_complete_one(shapes, old, tmp_path, caplog):
    copy = tmp_path / "copy"
    shutil.copytree(old, copy)
    (copy / "checkpoints/best").write_text("step-00000006\n")
    with caplog.at_level(logging.INFO, "lookalike"):
        train(**tiny(shapes), output=str(tmp_path / "a"), start_from=str(copy))
        assert torch.equal(head(tmp_path / "a", 0)[0], head(old, 6)[0])
        assert "(step 6, its best): 8 of 8" in caplog.text
        for step in (6, 9):
            shard = copy / f"checkpoints/step-{step:08d}/head-metric-00000.safetensors"
            shard.write_bytes(shard.read_bytes()[:-5])
        train(**tiny(shapes), output=str(tmp_path / "b"), start_from=str(copy))
    assert "(step 0, its newest): 8 of 8" in caplog.text
    assert caplog.text.count("head-metric-00000.safetensors: has") == 3
    folder = copy / "checkpoints/step-00000009"
    with pytest.raises(RunError, match=r"head-metric-00000\.safetensors: has \d+ bytes"):
        train(**tiny(shapes), output=str(tmp_path / "c"), start_from=str(folder))


def test_no_common_label_is_a_warning(shapes, old, tmp_path, caplog):
    list_file = shapes / "others.txt"
    text = (shapes / "train.txt").read_text()
    list_file.write_text(re.sub(r" (\d)$", r" x\1", text, flags=re.MULTILINE))
    train(**tiny(shapes, train=str(list_file)), output=str(tmp_path / "new"), start_from=str(old))
    (said,) = [r for r in caplog.records if "keep their weights" in r.message]
    assert said.levelno == logging.WARNING
    assert "0 of 8 classes keep" in said.message
    rows = initial_weight(range(16), DIM, seed=0, std=0.01)
    assert torch.equal(head(tmp_path / "new", 0)[0].flatten(0, 1), rows)


def test_resume_ignores_start_from(shapes, old, tmp_path):
    new = tmp_path / "new"
    train(**tiny(shapes), output=str(new), start_from=str(old))
    train(**tiny(shapes, max_steps=2), output=str(new), start_from="/nowhere", resume=True)
    assert [r["step"] for r in records(new)] == [1, 2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"embedding_dim": 16},
            "its embedding_dim is 12, and 16 here; give model.embedding_dim=12",
        ),
        ({"backbone": "test_vit"}, "its backbone is test_resnet, and test_vit here; give model"),
        ({"pooling": "gem"}, r"its pooling is gem\+quarters, and gem here"),
        ({"classification_weight": 0}, r"branch\..* here; set loss.classification_weight=1"),
        ({"centres": 3}, "head 'metric' has head.centres=2, and not 3; give head.centres=2"),
        ({"start_from": "nowhere"}, "train.start_from=nowhere: no complete checkpoint in"),
        ({"start_from": "s3://bucket/old"}, "takes a directory of this machine"),
    ],
)
def test_another_architecture_is_refused(shapes, old, tmp_path, settings, message):
    wanted = {"start_from": str(old), **tiny(shapes), **settings}
    with pytest.raises(RunError, match=message):
        train(**wanted, output=str(tmp_path / "new"))


def test_first_differing_tensor_is_named(shapes, old, tmp_path):
    """A checkpoint whose model/ is gone: the shapes tell."""
    copy = tmp_path / "copy"
    shutil.copytree(old, copy)
    shutil.rmtree(copy / "model")
    message = r"embedder\.neck\.projections\.0\.weight has shape \(6, .*\(8, .*; give the model\.\*"
    with pytest.raises(RunError, match=message):
        train(**tiny(shapes, embedding_dim=16), output=str(tmp_path / "a"), start_from=str(copy))
    (copy / "classes.json").unlink()
    with pytest.raises(RunError, match=r"classes\.json: cannot be read \(no such file"):
        train(**tiny(shapes), output=str(tmp_path / "b"), start_from=str(copy))


def test_a_start_from_a_run_needs_no_pretrained_weights(old, shapes, tmp_path, monkeypatch):
    """Weights of the hub cannot be had here: they are not asked for."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    settings = tiny(shapes) | {"pretrained": True, "lr": 1e-9}
    run = train(**settings, output=str(tmp_path / "new"), start_from=str(old))
    assert run.path == tmp_path / "new"


def test_a_resumed_run_needs_no_pretrained_weights(old, shapes, tmp_path):
    file = tmp_path / "start.safetensors"
    weights = safetensors.torch.load_file(old / "model/model.safetensors")
    safetensors.torch.save_file(
        {
            name.removeprefix("backbone.model."): value
            for name, value in weights.items()
            if name.startswith("backbone.model.")
        },
        file,
    )
    settings = tiny(shapes) | {"pretrained": str(file), "output": str(tmp_path / "run")}
    train(**settings | {"max_steps": 6}, checkpoint_every=1)
    file.unlink()
    run = train(**settings | {"max_steps": 9}, checkpoint_every=1, resume=True)
    assert (run.path / "checkpoints/step-00000009").is_dir()


@pytest.mark.parametrize(
    "kind",
    [
        {"val": "train.txt"},
        {"report": False},
        {"report": False, "val": "val.txt", "max_steps": 9, "early_stopping": 1, "lr": 1e-12},
    ],
)
def test_a_finished_run_without_checkpoints_is_not_trained_over(shapes, tmp_path, kind):
    kind = kind | ({"val": str(shapes / kind["val"])} if "val" in kind else {})
    settings = tiny(shapes) | kind | {"output": str(tmp_path / "run")}
    run = train(**settings)
    step = max(record["step"] for record in records(run.path))
    assert json.loads(run.finished.read_text()) == {"step": step}
    weights, metrics = run.model / "model.safetensors", run.metrics.read_bytes()
    before = weights.read_bytes()
    shutil.rmtree(run.checkpoints)
    for lost in (None, run.finished, run.config):  # earlier versions wrote no mark of the end
        if lost is not None:
            content = lost.read_bytes()
            lost.unlink()
        words = r"a finished run without checkpoints.*model\.pretrained="
        with pytest.raises(RunError, match=words):
            train(**settings | {"max_steps": 20}, resume=True)
        assert weights.read_bytes() == before
        assert run.metrics.read_bytes() == metrics
        if lost is not None:
            lost.write_bytes(content)
    again = settings | {"pretrained": str(weights), "output": str(tmp_path / "new")}
    train(**again)


def test_a_resumed_run_is_not_finished_while_it_goes_on(shapes, tmp_path, monkeypatch):
    settings = tiny(shapes) | {"output": str(tmp_path / "run"), "report": False}
    run = train(**settings)
    train(**settings, resume=True)  # nothing is left to train
    assert run.finished.exists()

    def fails(_):
        assert not run.finished.exists()
        raise RunError("no more")

    with monkeypatch.context() as failing:
        failing.setattr(Trainer, "fit", fails)
        with pytest.raises(RunError, match="no more"):
            train(**settings | {"max_steps": 2}, resume=True)
    assert not run.finished.exists()
    shutil.rmtree(run.checkpoints)
    train(**settings | {"max_steps": 2}, resume=True)  # what was interrupted begins again
    assert json.loads(run.finished.read_text()) == {"step": 2}


def test_a_finished_run_without_the_mark_of_its_end_is_not_trained_again(shapes, tmp_path, caplog):
    """Earlier versions wrote none."""
    settings = tiny(shapes) | {"output": str(tmp_path / "run"), "report": False}
    run = train(**settings)
    before = {path: path.read_bytes() for path in (run.metrics, run.model / "model.safetensors")}
    run.finished.unlink()
    train(**settings, resume=True)
    assert "nothing is left to train" in caplog.text
    assert {path: path.read_bytes() for path in before} == before
    assert run.finished.exists()


@pytest.mark.parametrize("how", ["resumed", "started from"])
def test_quarters_keep_their_map_at_another_image_size(shapes, tmp_path, how):
    settings = {**tiny(shapes), "pooling": "gem+quarters", "max_steps": 2}
    old = lookalike.train(**settings, output=str(tmp_path / "old"))
    more = {**settings, "image_size": 64, "max_steps": 3}
    if how == "resumed":
        run = lookalike.train(**more, output=str(tmp_path / "old"), resume=True)
    else:
        run = lookalike.train(**more, output=str(tmp_path / "new"), start_from=str(old.path))
    model = lookalike.load(run.path, device="cpu")
    assert model.preprocess.image_size == 64
    assert model.backbone.quarters_stride == 4  # at 64 pixels by itself: 8
