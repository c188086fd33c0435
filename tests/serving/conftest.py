"""A small calibrated model without training, and an index of its vectors."""

import pytest
from calibrated_model import save_calibrated_model

from lookalike.index.index import Index
from lookalike.model.embedder import Embedder


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The folder of a small calibrated model, called `small`."""
    folder = tmp_path_factory.mktemp("served") / "small"
    save_calibrated_model(folder)
    return folder


@pytest.fixture(scope="session")
def files(shapes):
    """Twenty images of five classes."""
    return sorted((shapes / "images").glob("10*.jpg"))


@pytest.fixture(scope="session")
def gallery(model, files, tmp_path_factory):
    """An index of these images, with their classes as labels."""
    folder = tmp_path_factory.mktemp("gallery") / "index"
    Index.build(
        Embedder.load(model),
        files,
        folder,
        ids=[file.name for file in files],
        labels=[file.name.split("-")[0] for file in files],
    )
    return folder
