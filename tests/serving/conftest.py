"""A small calibrated model without training, and an index of its vectors."""

import pytest
import torch

from lookalike.index.index import Index
from lookalike.metrics.calibration import fit_calibration
from lookalike.model.embedder import Embedder


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The folder of a small calibrated model, called `small`."""
    torch.manual_seed(0)
    embedder = Embedder.create(
        "test_resnet", pretrained=False, image_size=32, embedding_dim=16, crop_pct=1.0
    )
    folder = tmp_path_factory.mktemp("served") / "small"
    embedder.save(folder)
    labels = torch.arange(40).repeat_interleave(4)
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(40, 16, generator=generator)[labels]
    vectors = centres + torch.randn(160, 16, generator=generator)
    fit_calibration(vectors, labels, source="drawn vectors").save(folder)
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
