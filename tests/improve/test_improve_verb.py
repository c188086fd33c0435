"""`lookalike improve`, and what it keeps."""

import json
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import lookalike
from lookalike import cli
from lookalike.model.embedder import Embedder
from lookalike.retrieval.whitening import project, whitening

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


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["lookalike", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_every_kind_is_measured_and_one_is_kept(monkeypatch, shapes, model, tmp_path, capsys):
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


def test_the_table_has_gains(monkeypatch, shapes, model, capsys):
    arguments = ["improve", model, "--data", shapes / "val.txt", "--variant", "dims=8+int8"]
    assert run(monkeypatch, *arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("dims=8+int8") and line.endswith(" 8") for line in lines)
    assert lines[-1] == "over 10 queries in a gallery of 10"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--variant", "wobble"], "'wobble' is not one of"),
        (["--variant", "whiten"], "give --fit LIST"),
        (["--keep", "flip"], "go together"),
        (["--keep", "int8", "--output", "x"], "int8 cannot be kept with a model"),
    ],
)
def test_mistakes_are_one_line(monkeypatch, shapes, model, capsys, more, message):
    assert run(monkeypatch, "improve", model, "--data", shapes / "val.txt", *more) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
