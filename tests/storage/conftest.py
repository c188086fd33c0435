"""A bucket on loopback, spoken to by the real clients of S3 and OSS."""

from urllib.request import Request, urlopen

import pytest
import torch
from google_storage import GoogleStorage
from moto.moto_api._internal import moto_api_backend
from object_server import object_server

from lookalike.model.embedder import Embedder
from lookalike.storage import client_registry
from lookalike.storage.fsspec_client import FsspecClient


@pytest.fixture(scope="session")
def server():
    with object_server() as (address, faults):
        yield address, faults


@pytest.fixture
def bucket(server, monkeypatch, tmp_path):
    """The faults of a server that holds an empty bucket `shop`, for s3:// and oss://."""
    address, faults = server
    for name, value in {
        "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "hush-hush",
        "AWS_ENDPOINT_URL": address, "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path / "none"), "OSS_CONFIG_FILE": str(tmp_path / "none"),
        "OSS_ACCESS_KEY_ID": "id", "OSS_ACCESS_KEY_SECRET": "hush-hush", "OSS_ENDPOINT": address,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    for uri in ("s3://shop/x", "oss://shop/x"):
        client_registry.forget_credentials(uri, client_registry.credentials_number(uri))
    faults.plan, faults.delay, faults.refused = (lambda *_: None), 0.0, set()
    moto_api_backend.reset()
    urlopen(Request(f"{address}/shop", method="PUT")).close()
    faults.counts.clear()
    return faults


@pytest.fixture
def google(monkeypatch):
    """A stand-in of gcsfs for gs://."""
    filesystem = GoogleStorage()
    usual = FsspecClient.filesystem_of

    def filesystem_of(self, uri):
        return (filesystem, uri[5:]) if uri.startswith("gs://") else usual(self, uri)

    monkeypatch.setattr(FsspecClient, "filesystem_of", filesystem_of)
    yield filesystem
    filesystem.store.clear()


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The folder of a small model that has learned nothing."""
    torch.manual_seed(0)
    embedder = Embedder.create(
        "test_resnet", pretrained=False, image_size=32, embedding_dim=16, crop_pct=1.0
    )
    folder = tmp_path_factory.mktemp("model")
    embedder.save(folder)
    return folder
