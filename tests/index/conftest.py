"""A model without training and a gallery of drawings."""

import shutil
from pathlib import Path

import pytest
import torch

from lookalike.model.embedder import Embedder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small model."""
    torch.manual_seed(0)
    embedder = Embedder.create(
        "test_resnet", pretrained=False, image_size=32, embedding_dim=16, crop_pct=1.0
    )
    folder = tmp_path_factory.mktemp("model")
    embedder.save(folder)
    return folder


@pytest.fixture
def photos(shapes: Path, tmp_path: Path) -> Path:
    """A folder for each of five classes, with four images each, and one image outside."""
    for file in sorted((shapes / "images").glob("10*.jpg")):
        klass, _, name = file.name.partition("-")
        (tmp_path / "photos" / klass).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tmp_path / "photos" / klass / name)
    shutil.copy(shapes / "images/0-0.jpg", tmp_path / "photos/alone.jpg")
    return tmp_path / "photos"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"
