"""A studio on a folder of its own, asked in this process."""

import shutil

import pytest
import yaml
from calibrated_model import save_calibrated_model
from studio_client import Client

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
    folder = tmp_path_factory.mktemp("small") / "model"
    save_calibrated_model(folder)
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
