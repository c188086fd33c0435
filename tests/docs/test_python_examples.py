"""Every Python example of the README and the docs runs, in order, in a folder like the reader's."""

import importlib.util
import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lookalike
from lookalike.commands.train import train

OPTIONAL = ("openvino", "kfp")
ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SMALL = {
    "backbone": "test_resnet", "pretrained": False, "image_size": 32, "embedding_dim": 16,
    "epochs": 1, "batch_size": 8, "threads": 1,
}  # fmt: skip


def examples(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)


def small_train(config=None, **given):
    """`lookalike.train` as written, of a network that takes seconds."""
    if config is not None:
        return train(config, **given)
    if Path(given["output"]).exists():
        given["output"] += "-again"
    return train(**{**given, **SMALL})


@pytest.fixture(scope="module")
def folder(tmp_path_factory, shapes, many_shapes):
    """Lists, images and two runs under the names that the examples use."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(shapes, folder, dirs_exist_ok=True)
    shutil.copytree(many_shapes.parent / "images", folder / "images", dirs_exist_ok=True)
    shutil.copy(many_shapes, folder / "val.txt")
    shutil.copy(folder / "val.txt", folder / "test.txt")
    for name, image in zip("abcde", sorted((folder / "images").iterdir()), strict=False):
        shutil.copy(image, folder / f"{name}.jpg")
    shutil.copy(folder / "e.jpg", folder / "query.jpg")
    (folder / "workflow.yaml").write_text("data: {uses: read, with: {list: val.txt}}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        small_train(train="train.txt", val="val.txt", output="runs/shoes")
        for name in ("first", "old", "new"):
            shutil.copytree("runs/shoes", f"runs/{name}")
        lookalike.embed("runs/shoes", "test.txt", "vectors.npy")
        lookalike.export("runs/shoes", "onnx", output="runs/shoes/exports/model.onnx")
        lookalike.export("runs/shoes", "onnx", output="model-tensor.onnx", input="tensor")
        lookalike.export("runs/shoes", "torch_export", output="model.pt2")
        shutil.copy("runs/shoes/exports/model.onnx", "model.onnx")
    return folder


def namespace() -> dict:
    """The names that examples take from the text around them."""
    with zipfile.ZipFile("model.pt2") as archive:
        name = next(name for name in archive.namelist() if name.endswith("/lookalike.json"))
        about = json.loads(archive.read(name))
    return {
        "lookalike": lookalike,
        "about": about,
        "pixels": np.array(Image.open("a.jpg").convert("RGB")),
        "vectors": np.random.default_rng(0).standard_normal((2, 16)).astype(np.float32),
        "labels": np.array([0, 0]),
        "tensor": np.zeros((2, 3, 32, 32), np.float32),
    }


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_of_a_page_run(page, folder, monkeypatch):
    if not examples(page):
        pytest.skip("no Python on this page")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(lookalike, "train", small_train, raising=False)
    for text in examples(page):
        missing = [name for name in OPTIONAL if importlib.util.find_spec(name) is None]
        if any(f"import {name}" in text or f"from {name}" in text for name in missing):
            continue
        if "push_to_hub" in text:  # needs a hub: tests/exporting/test_push_to_hub.py
            continue
        if "lookalike.submit(" in text:  # needs a cluster: tests/jobs
            continue
        exec(compile(text, page.name, "exec"), namespace())
