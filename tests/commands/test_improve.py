"""`lookalike improve`, and the model that it saves."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console

import lookalike
from lookalike.cli.improve_command import show
from lookalike.commands.evaluate import compare
from lookalike.commands.improve import Improvement, improve
from lookalike.errors import ConfigError
from lookalike.metrics.bootstrap import Difference
from lookalike.metrics.postprocessing.whitening import project, whitening
from lookalike.metrics.scores import Scores
from lookalike.model.embedder import Embedder
from program import run

MODEL = {"pretrained": False, "image_size": 32, "embedding_dim": 24}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    Embedder.create("test_resnet", **MODEL).save(folder)
    return folder


def by_hand(embedder, images, fitting):
    """The mean of both views, whitened to 12 dimensions on the fitting list's images."""

    def both(paths):
        arrays = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
        views = embedder.embed(arrays) + embedder.embed([array[:, ::-1] for array in arrays])
        return F.normalize(torch.from_numpy(views), dim=1)

    return project(both(images), *whitening(both(fitting), 12)).numpy()


def listed(folder, name):
    lines = (folder / name).read_text().splitlines()
    return [folder / line.rsplit(" ", 1)[0] for line in lines]


def test_all_default_variants_and_keep(monkeypatch, shapes, model, tmp_path, capsys):
    kept = tmp_path / "better" / "model"
    code = run(
        monkeypatch, "improve", model, "--data", shapes / "val.txt", "--fit", shapes / "train.txt",
        "--keep", "whiten=12+flip", "--output", kept, "--json",
    )  # fmt: skip
    assert code == 0
    found = json.loads(capsys.readouterr().out)["variants"]
    assert [one["variant"] for one in found] == [
        "plain", "flip", "whiten", "int8", "binary", "binary_gallery", "augment", "expand",
        "augment+expand", "rerank",
    ]  # fmt: skip
    assert {one["queries"] for one in found} == {10}
    assert {one["bytes"] for one in found} == {96, 24, 3}
    images = listed(shapes, "val.txt")
    vectors = lookalike.load(kept, device="cpu").embed(images)
    assert vectors.shape == (20, 12)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    expected = by_hand(lookalike.load(model, device="cpu"), images, listed(shapes, "train.txt"))
    assert np.abs(vectors - expected).max() < 1e-5


@pytest.mark.parametrize("place", [".", "link", "dangling"])
def test_the_model_is_written_into_an_empty_folder(monkeypatch, shapes, model, tmp_path, place):
    """The current one, one behind a link, one that a link names; nothing else is left."""
    target = tmp_path / "place/target"
    (tmp_path / "place").mkdir()
    if place != "dangling":
        target.mkdir()
    if place != ".":
        (tmp_path / "place" / place).symlink_to("target")
    monkeypatch.chdir(target if place == "." else tmp_path / "place")
    lookalike.improve(
        model, shapes / "val.txt", variants="flip", keep="flip", output=place, device="cpu"
    )
    assert Path.cwd().is_dir()
    assert {path.name for path in target.iterdir()} == {
        "config.json", "improved.json", "model.safetensors"
    }  # fmt: skip
    assert {path.name for path in (tmp_path / "place").iterdir()} == {"target", place} - {"."}
    assert lookalike.load(place, device="cpu").mirror


@pytest.mark.parametrize("renamed", [0, 1, 2])
def test_a_folder_that_a_killed_call_left_is_filled(monkeypatch, shapes, model, tmp_path, renamed):
    """Killed before the first, the second or the third file got its name."""

    def keep():
        lookalike.improve(
            model, shapes / "val.txt", variants="flip", keep="flip", output=tmp_path, device="cpu"
        )

    replace, calls = Path.replace, []

    def killed(self, target):
        calls.append(target)
        if len(calls) > renamed:
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            keep()
    assert len(list(tmp_path.iterdir())) == renamed
    for name in ("config.json", "model.safetensors")[: 3 - renamed]:
        (tmp_path / f".{name}.partial").write_bytes(b"half")
    keep()
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json", "improved.json", "model.safetensors"
    }  # fmt: skip
    assert lookalike.load(tmp_path, device="cpu").mirror
    with pytest.raises(ConfigError, match="is not empty"):
        keep()


def test_weights_of_somebody_else_are_kept(shapes, model, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"precious")
    with pytest.raises(ConfigError, match="is not empty"):
        lookalike.improve(model, shapes / "val.txt", keep="flip", output=tmp_path)


def test_whitening_is_fitted_on_the_training_rows_of_a_table(shapes, model, tmp_path):
    rows = ["path,label,split"]
    for name, split in (("train.txt", "train"), ("val.txt", "test")):
        for line in (shapes / name).read_text().splitlines():
            path, label = line.rsplit(" ", 1)
            rows.append(f"{shapes / path},{label},{split}")
    table, kept = tmp_path / "all.csv", tmp_path / "kept"
    table.write_text("\n".join(rows) + "\n")
    improve(model, table, variants="flip", fit=table, keep="whiten=12+flip", output=kept)
    images = listed(shapes, "val.txt")
    expected = by_hand(lookalike.load(model, device="cpu"), images, listed(shapes, "train.txt"))
    assert np.abs(lookalike.load(kept, device="cpu").embed(images) - expected).max() < 1e-5


def test_fewer_axes_than_asked_for_are_warned_of(shapes, model, tmp_path, caplog):
    few = tmp_path / "few.txt"
    few.write_text("".join(f"{path} 1\n" for path in listed(shapes, "train.txt")[:5]))
    improve(model, shapes / "val.txt", variants="whiten=12", fit=few)
    assert "whiten=12: the 5 images that whitening is fitted on span 4 axes only" in caplog.text


def test_table_of_gains(monkeypatch, shapes, model, capsys):
    arguments = ["improve", model, "--data", shapes / "val.txt", "--variant", "dims=8+int8"]
    assert run(monkeypatch, *arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("dims=8+int8") and line.endswith(" 8") for line in lines)
    assert lines[-1] == "over 10 queries in a gallery of 10"


def test_gains_equal_the_differences_of_evaluate(shapes, model, tmp_path):
    rows = ["image_path,label,is_query,is_gallery"]
    for number, line in enumerate((shapes / "val.txt").read_text().splitlines()):
        path, label = line.rsplit(" ", 1)
        rows.append(f"{shapes / path},{label},{number % 2},{1 - number % 2}")
    data, kept = tmp_path / "val.csv", tmp_path / "kept"
    data.write_text("\n".join(rows) + "\n")
    plain, found = improve(
        model, str(data), variants=["flip+dims=3"], keep="flip+dims=3", output=kept, device="cpu"
    )
    compared = compare([str(model), str(kept)], str(data), device="cpu")
    expected = compared.differences[0]
    assert plain.gains == {}
    assert found.gains == {name: expected[name] for name in ("recall_at_1", "map_at_r")}
    gain = found.gains["map_at_r"]
    assert gain.value == pytest.approx(found.scores.map_at_r - plain.scores.map_at_r, abs=1e-9)
    assert gain.value != 0
    assert gain.low < gain.value < gain.high
    its = found.to_dict()["gains"]["map_at_r"]
    assert its == compared.to_dict()["differences"][0]["map_at_r"]
    assert its["interval"] == [gain.low, gain.high]


def test_equal_rankings_gain_zero(shapes, model):
    same = improve(model, str(shapes / "val.txt"), variants=["dims=24"], device="cpu")[1]
    for gain in same.gains.values():
        assert (gain.value, gain.low, gain.high, gain.real) == (0, 0, 0, False)


def test_only_significant_gains_are_marked(capsys):
    def one(variant, gains):
        return Improvement(variant, Scores({1: 0.5}, 0.25, 0.25, 9, 0, 8), 16, gains)

    unsure = Difference(0.02, -0.011, 0.05, 0.2, 5)
    better, worse = Difference(0.02, 0.011, 0.05, 0.01, 5), Difference(-0.1, -0.2, -0.01, 0.01, 5)
    found = [
        one("plain", {}),
        one("flip", {"recall_at_1": unsure, "map_at_r": better}),
        one("binary", {"recall_at_1": worse, "map_at_r": unsure}),
    ]
    show(found, Console(width=120))
    _, *rows, legend, _ = capsys.readouterr().out.splitlines()
    assert [" ".join(row.split()) for row in rows] == [
        "plain 50.0 % 25.0 % 16",
        "flip 50.0 % +2.0 -1.1 to +5.0 25.0 % +2.0 +1.1 to +5.0 * 16",
        "binary 50.0 % -10.0 -20.0 to -1.0 * 25.0 % +2.0 -1.1 to +5.0 16",
    ]
    assert legend.startswith("* ")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--variant", "wobble"], "'wobble' is not one of"),
        (["--variant", "whiten"], "give --fit LIST"),
        (["--variant", "whiten=25", "--fit", "x"], "whiten=25: the embedding has 24 dimensions"),
        (["--variant", "dims=25"], "dims=25: the embedding has 24 dimensions"),
        (["--split", "test"], "val.txt: no row names a split, so none is of the split 'test'"),
        (["--keep", "flip"], "go together"),
        (["--keep", "int8", "--output", "x"], "int8 cannot be kept with a model"),
        (["--keep", "flip", "--output", "s3://b/x"], "written to a folder of this machine"),
        (
            ["--keep", "flip", "--output", __file__],
            "is a file, where a folder is needed",
        ),
    ],
)
def test_mistakes_of_improve_are_one_line(monkeypatch, shapes, model, capsys, more, message):
    assert run(monkeypatch, "improve", model, "--data", shapes / "val.txt", *more) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


def test_the_format_is_that_of_the_data(shapes, model, tmp_path):
    table = tmp_path / "val.csv"
    rows = (
        (shapes / "val.txt").read_text().replace(" ", ",").replace("images/", f"{shapes}/images/")
    )
    table.write_text("path,label\n" + rows)
    fit = shapes / "train.txt"
    found = improve(model, table, format="csv", variants="whiten=12", fit=fit, device="cpu")
    assert [one.variant for one in found] == ["plain", "whiten=12"]


def test_an_empty_list_of_variants_is_refused(shapes, model):
    with pytest.raises(lookalike.LookalikeError, match="variants is empty"):
        improve(model, shapes / "val.txt", variants=[], device="cpu")
