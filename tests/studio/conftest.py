"""A studio on a folder of its own, asked in this process."""

import shutil

import pytest
import torch
import yaml
from studio_client import Client

from lookalike.metrics.calibration import fit_calibration
from lookalike.model.embedder import Embedder
from lookalike.serving.access import Access
from lookalike.studio import run_processes
from lookalike.studio.studio_app import create_app


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "train.txt").write_text("a.jpg 0\nb.jpg 1\n")
    (folder / "val.txt").write_text("c.jpg 2\nd.jpg 2\n")
    (tmp_path / "secret.txt").write_text("secret 0\n")
    return folder


@pytest.fixture
def client(root):
    return Client(create_app([root], Access()))


@pytest.fixture(scope="session")
def small_model(tmp_path_factory):
    """The folder of a small calibrated model."""
    torch.manual_seed(0)
    embedder = Embedder.create(
        "test_resnet", pretrained=False, image_size=32, embedding_dim=16, crop_pct=1.0
    )
    folder = tmp_path_factory.mktemp("small") / "model"
    embedder.save(folder)
    labels = torch.arange(40).repeat_interleave(4)
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(40, 16, generator=generator)[labels]
    vectors = centres + torch.randn(160, 16, generator=generator)
    fit_calibration(vectors, labels, source="drawn vectors").save(folder)
    return folder


@pytest.fixture
def trained(root, shapes, small_model, monkeypatch, tmp_path):
    """A run with a model, its lists and images, all below the root."""
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(shapes, root / "shapes")
    run = root / "runs/one"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copytree(small_model, run / "model")
    data = {name: f"{root}/shapes/{name}.txt" for name in ("train", "val")}
    (run / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    return run


@pytest.fixture
def started(monkeypatch):
    """The words of the processes that are started; none is."""
    found = []

    class Child:
        pid = 2**22 + 5

        def __init__(self, words, **more):
            found.append(words)

        def poll(self):
            return 0

    monkeypatch.setattr(run_processes.subprocess, "Popen", Child)
    return found
