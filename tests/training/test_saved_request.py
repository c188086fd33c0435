"""Request and resolved settings of a run, and their use on resume."""

import json
import shutil
import sys

import pytest
import safetensors.torch
import yaml

import lookalike
from lookalike import cli
from lookalike.config.config import Config, keys
from lookalike.distributed.world import World
from lookalike.errors import ConfigError, DataError, LookalikeError, RunError
from lookalike.model.embedder import Embedder
from lookalike.run import Run
from lookalike.training.build import create_embedder
from lookalike.training.build_heads import metric_loss
from lookalike.training.open_run import as_before, write_request
from lookalike.training.remote_run import saved_config
from lookalike.training.resolve import RESOLVED_FROM, resolve

ASKED = {
    "model.backbone": "test_resnet", "model.pretrained": False, "model.image_size": 32,
    "model.embedding_dim": 16, "train.batch_size": 8, "train.max_steps": 1, "run.device": "cpu",
    "train.report": False, "train.recipe": "component",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(shapes, tmp_path_factory) -> Run:
    output = str(tmp_path_factory.mktemp("asked") / "run")
    asked = Config.load(flags={**ASKED, "data.train": str(shapes / "train.txt")})
    return lookalike.train(asked, output=output)


def test_request_and_resolved_settings_are_two_files(run, shapes):
    asked = yaml.safe_load(run.config.read_text())
    given = {**ASKED, "data.train": str(shapes / "train.txt"), "run.output": str(run.path)}
    assert {f"{s}.{k}": v for s, part in asked.items() for k, v in part.items()} == given
    used = yaml.safe_load(run.resolved.read_text())
    assert {f"{s}.{k}" for s, part in used.items() for k in part} == set(keys())
    assert (used["loss"]["margin"], used["loss"]["classification_weight"]) == (0.4, 1.0)
    assert used["model"]["backbone_dim"] == 96
    assert saved_config(str(run.path)).loss.margin == 0.4
    assert saved_config(str(run.path), asked=True).loss.margin is None


@pytest.mark.parametrize("change", ["loss.name=cosface", "model.backbone=resnet18",
                                    "head.parallel=model", "run.device=auto"])  # fmt: skip
def test_saved_request_with_a_change_equals_a_new_request(run, shapes, change):
    fresh = [f"{key}={value}" for key, value in ASKED.items()]
    places = {"data.train": str(shapes / "train.txt"), "run.output": str(run.path)}
    again, new = Config.load(run.config, [change]), Config.load(None, [*fresh, change], places)
    assert again == new
    assert again.asked() == new.asked()


def test_complete_request_of_an_older_version(run, tmp_path):
    old = Run(tmp_path)
    old.config.write_text(run.resolved.read_text())
    assert saved_config(str(tmp_path)) == saved_config(str(run.path))
    assert Config.load(old.config, ["loss.scale=7"]).loss.margin == 0.4


def test_resolved_from_lists_all_resolved_settings():
    config = Config().with_values(ASKED)
    margin = metric_loss(config)
    resolved = resolve(config, margin, create_embedder(config, margin), World(), 8)
    assert resolved.asked() - config.asked() == set(RESOLVED_FROM) - {
        "data.val_fraction",
        "train.max_steps",
    }


def resumed(run: Run, folder, *changes: str) -> Config:
    """The settings of a resumed run that was begun by a version with another default of lr."""
    asked = saved_config(str(run.path), asked=True)
    used = saved_config(str(run.path)).with_values({"optim.lr": 0.5, "train.precision": "bf16"})
    write_request(Run(folder), asked, used)
    given = Config.load(None, changes)
    changed = asked.with_values({key: given.get(key) for key in given.asked()})
    return as_before(changed, Run(folder), True, World())


def test_resume_keeps_resolved_settings(run, tmp_path):
    found = resumed(run, tmp_path, "train.epochs=7")
    assert (found.optim.lr, found.train.precision, found.train.epochs) == (0.5, "bf16", 7)
    assert (found.loss.margin, found.model.backbone_dim) == (0.4, 96)


@pytest.mark.parametrize(
    ("change", "open_again"),
    [
        (
            "loss.name=arcface",
            {"loss.margin", "loss.scale", "loss.classification_weight", "data.sampler"},
        ),
        ("head.parallel=model", {"loss.classification_weight"}),
        ("train.precision=fp32", {"head.precision"}),
        ("optim.lr=0.1", set()),
    ],
)
def test_a_change_reopens_dependent_settings(run, tmp_path, change, open_again):
    found = resumed(run, tmp_path, change)
    default = Config()
    kept = saved_config(str(run.path))
    for key in set(RESOLVED_FROM) - {"train.precision"}:
        assert found.get(key) == (default if key in open_again else kept).get(key), key


def test_addresses_are_written_without_their_secrets(tmp_path, caplog):
    address = "https://me:PASSWD@host/list.txt?id=7&X-Amz-Signature=SECRETSIG"
    config = Config.load(flags={"data.train": address, "model.pretrained": False})
    write_request(Run(tmp_path), config, config)
    for file in (Run(tmp_path).config, Run(tmp_path).resolved):
        assert "https://host/list.txt?id=7\n" in file.read_text()
    assert "data.train: written without the user info and signature" in caplog.text
    assert "SECRETSIG" not in caplog.text


def test_mistyped_run_is_reported_as_such(run):
    close = run.path.with_name("rum")
    with pytest.raises(RunError, match=f"{close}: no run here to resume .*did you mean {run.path}"):
        lookalike.train(output=str(close), resume=True)
    with pytest.raises(ConfigError, match=r"nothing to resume: give run\.output"):
        lookalike.train(resume=True)
    assert not close.exists()


def test_broken_request_is_named_by_its_path(tmp_path, monkeypatch, capsys):
    (tmp_path / "config.yaml").write_text("optim: {lr: fast}\n")
    monkeypatch.setattr(sys, "argv", ["lookalike", "train", "--resume", "--output", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert f"error: {tmp_path}/config.yaml:1: optim.lr='fast'" in capsys.readouterr().err


def test_resume_in_python_takes_the_saved_request_as_the_command_does(run, tmp_path):
    again = Run(shutil.copytree(run.path, tmp_path / "run"))
    found = lookalike.train(output=str(again.path), max_steps=2, resume=True)
    request = Config.load(str(found.config))
    assert request.asked() == {*ASKED, "data.train", "run.output"}
    assert (request.train.max_steps, request.model.backbone) == (2, "test_resnet")
    assert [record["step"] for record in found.read(found.metrics) if "loss" in record][-1] == 2


def test_foreign_folder_is_not_resumed(tmp_path, shapes):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(RunError, match=r"holds no run \(it has thesis.tex\)"):
        lookalike.train(output=str(tmp_path), train=str(shapes / "train.txt"), resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_resume_without_config_yaml(run, tmp_path):
    lost = Run(tmp_path / "run")
    (lost.checkpoints / "step-00000001").mkdir(parents=True)
    assert not lost.exists()
    assert lost.began()
    with pytest.raises(RunError, match="it has checkpoints"):
        Run.create(lost.path)
    Run.create(lost.path, resume=True)


def test_data_and_output_of_a_recipe_file_apply_before_lists_are_opened(shapes, tmp_path):
    """config.yaml has the name of the file, not what is in it; a resumed run needs no more."""
    file, output = tmp_path / "mine.yaml", tmp_path / "run"
    parts: dict = {"data": {"train": str(shapes / "train.txt"), "val_fraction": 0.3},
                   "run": {"output": str(output)}}  # fmt: skip
    for key, value in ASKED.items():
        section, name = key.split(".")
        if name != "recipe":
            parts.setdefault(section, {})[name] = value
    file.write_text(yaml.safe_dump(parts))
    run = lookalike.train(recipe=str(file))
    assert run.path == output
    assert run.scores()  # of the classes that are held out
    assert yaml.safe_load(run.config.read_text()) == {"train": {"recipe": str(file)}}
    assert lookalike.train(recipe=str(file), resume=True).path == output


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.recipe", "own/recipe.yaml"),
        ("train.start_from", "runs/first"),
        ("model.pretrained", "own/a.safetensors"),
        ("model.backbone", "local-dir:own/vit"),
    ],
)
def test_relative_files_of_a_run_resumed_elsewhere_are_explained(
    shapes, tmp_path, monkeypatch, key, value
):
    output = tmp_path / "run"
    output.mkdir()
    asked = {**ASKED, "data.train": str(shapes / "train.txt"), key: value}
    config = Config.load(flags={**asked, "run.output": str(output)})
    (output / "config.yaml").write_text(config.to_yaml(complete=False))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LookalikeError) as caught:
        lookalike.train(output=output, resume=True)
    named = f"{output} names it in {key}, relative to the folder where it was trained: run this"
    assert str(caught.value).endswith(f"; {named} there, or give {key}=PLACE")
    (output / "folders.json").write_text(json.dumps({key: "/gone"}))
    with pytest.raises(LookalikeError, match=f"{key}, relative to /gone, where it is not found an"):
        lookalike.train(output=output, resume=True)
    # Of a setting of this call, the present folder is meant.
    with pytest.raises(LookalikeError) as caught:
        lookalike.train(Config.load(flags={**asked, "run.output": str(tmp_path / "new")}))
    assert "names it" not in str(caught.value)


@pytest.mark.slow
def test_files_are_found_in_the_folder_where_the_run_began(shapes, tmp_path, monkeypatch, caplog):
    """With the saved request, with its file, and with a recipe file that names a list."""
    began, elsewhere = tmp_path / "began", tmp_path / "elsewhere"
    for folder in (began, elsewhere):
        folder.mkdir()
    (began / "data").symlink_to(shapes)
    (began / "names.txt").write_text("\n".join(map(str, range(8))))
    (began / "mine.yaml").write_text("data:\n  val: data/val.txt\n")
    embedder = Embedder.create("test_resnet", pretrained=False, image_size=32)
    safetensors.torch.save_file(embedder.backbone.model.state_dict(), began / "a.safetensors")
    files = {
        "data.train": "data/tr[a]in.txt", "data.classes": "names.txt", "data.cache": "cache",
        "model.pretrained": "a.safetensors", "train.recipe": "mine.yaml", "train.log_every": 1,
        "run.output": str(tmp_path / "run"),
    }  # fmt: skip
    monkeypatch.chdir(began)
    run = lookalike.train(Config.load(flags={**ASKED, **files}))
    saved = run.config.read_bytes()
    monkeypatch.chdir(elsewhere)
    caplog.clear()
    lookalike.train(output=run, resume=True, max_steps=2)
    lookalike.train(output=run, resume=True, max_steps=3)  # with what the second start wrote
    used = saved_config(str(run.path))
    assert {key: used.get(key) for key in files} == files
    lookalike.train(Config.load("saved", content=saved), resume=True, max_steps=4)
    assert "changed settings" not in caplog.text
    assert [r["step"] for r in run.read(run.metrics) if "loss" in r] == [1, 2, 3, 4]
    lookalike.train(output=run, resume=True, max_steps=5, workers=2)
    assert not list(elsewhere.iterdir())
    # A file of the working folder comes first.
    (elsewhere / "data").mkdir()
    (elsewhere / "data/train.txt").write_text("a.jpg\n")
    with pytest.raises(DataError, match=r"^data/train.txt:1"):
        lookalike.train(Config.load("saved", content=saved), resume=True)


def test_commands_find_the_lists_of_a_run_from_another_folder(shapes, tmp_path, monkeypatch):
    (tmp_path / "data").symlink_to(shapes)
    monkeypatch.chdir(tmp_path)
    flags = {**ASKED, "data.train": "data/train.txt", "data.val": "data/val.txt"}
    run = lookalike.train(Config.load(flags=flags), output="run")
    monkeypatch.chdir("/")
    assert lookalike.doctor(run=run, images=False, device="cpu").facts["labels"]
    lookalike.report(run, device="cpu")
    assert "Images are left out" not in run.report.read_text()
