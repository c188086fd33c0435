"""A model without training and a gallery of drawings."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from lookalike.model.embedder import Embedder

if TYPE_CHECKING:
    from postgres_server import PostgresServer
    from qdrant_server import QdrantServer


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


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    from postgres_server import PostgresServer

    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def qdrant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QdrantServer]:
    from qdrant_server import QdrantServer

    with QdrantServer(tmp_path_factory.mktemp("qdrant")) as server:
        yield server


@pytest.fixture(params=["qdrant", "postgresql"])
def address(request: pytest.FixtureRequest) -> str:
    """Of a place without an index."""
    name = f"t{abs(hash(request.node.nodeid))}"
    if request.param == "qdrant":
        return f"qdrant://127.0.0.1:{request.getfixturevalue('qdrant').port}/{name}"
    return str(request.getfixturevalue("postgres").address(name))
