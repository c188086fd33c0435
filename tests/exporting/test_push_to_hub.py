"""Models in a repository of the hub, with a client that only notes what it is asked."""

import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch

import lookalike
from lookalike.errors import ConfigError, MissingExtraError, RunError, StorageError
from lookalike.model.embedder import Embedder


class Refused(Exception):
    def __init__(self, status):
        super().__init__("hf_secret in a request")
        self.response = type("Response", (), {"status_code": status})()


@pytest.fixture
def hub(monkeypatch):
    """Requests to the hub; an `error` in it is raised."""
    asked = {"error": None}

    class Api:
        def create_repo(self, repository, **options):
            if asked["error"] is not None:
                raise asked["error"]
            asked["repository"] = (repository, options)
            return f"https://hub/{repository}"

        def upload_folder(self, *, folder_path, **options):
            asked["files"] = sorted(path.name for path in Path(folder_path).iterdir())
            asked["upload"] = options

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return asked


@pytest.fixture(scope="module")
def embedder():
    torch.manual_seed(0)
    return Embedder.create("test_resnet", pretrained=False, image_size=32, embedding_dim=16)


@pytest.fixture
def places(embedder, tmp_path):
    """An export's folder, a run, a model folder and an ONNX file."""
    embedder.save(tmp_path / "model")
    embedder.save(tmp_path / "export")
    for name in ("lookalike.json", "README.md"):
        (tmp_path / "export" / name).write_text("{}")
    embedder.save(tmp_path / "run/model")
    (tmp_path / "run/model/calibration.json").write_text("{}")
    (tmp_path / "run/log.txt").write_text("stays here")
    (tmp_path / "a.onnx").write_bytes(b"onnx")
    return tmp_path


@pytest.mark.parametrize(
    ("place", "files"),
    [
        ("export", ["README.md", "config.json", "lookalike.json", "model.safetensors"]),
        ("run", ["calibration.json", "config.json", "model.safetensors"]),
        ("model", ["config.json", "model.safetensors"]),
        ("a.onnx", ["model.onnx"]),
        (None, ["config.json", "model.safetensors"]),
    ],
)
def test_uploaded_files(hub, places, embedder, place, files):
    model = embedder if place is None else places / place
    assert lookalike.push_to_hub(model, "me/shoes", message="new") == "https://hub/me/shoes"
    assert hub["files"] == files
    assert hub["repository"] == ("me/shoes", {"private": True, "exist_ok": True})
    assert hub["upload"] == {"repo_id": "me/shoes", "commit_message": "new", "revision": None}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (Refused(401), r"the hub refuses the token \(401\); .* set HF_TOKEN, or run: hf auth"),
        (Refused(500), r"the hub answers 500$"),
        (OSError("hf_secret"), r"the hub cannot be reached \(OSError\)$"),
        (huggingface_hub.errors.LocalTokenNotFoundError("hf_secret"), "no token of the hub; set"),
    ],
)
def test_refusals_are_one_line_without_the_token(hub, places, error, words):
    hub["error"] = error
    with pytest.raises(StorageError, match=f"^me/shoes: {words}") as refused:
        lookalike.push_to_hub(places / "model", "me/shoes")
    assert "hf_secret" not in str(refused.value)


@pytest.mark.parametrize("installed", [True, False])
def test_a_wrong_model_or_repository_is_refused(hub, places, monkeypatch, installed):
    if not installed:
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(MissingExtraError, match=r"pip install 'lookalike\[hub\]'"):
            lookalike.push_to_hub(places / "model", "me/shoes")
    with pytest.raises(ConfigError, match="'shoes' is not OWNER/NAME"):
        lookalike.push_to_hub(places / "model", "shoes")
    with pytest.raises(RunError, match="none: no such file or folder"):
        lookalike.push_to_hub(places / "none", "me/shoes")
    with pytest.raises(ConfigError, match="s3://b/run: copy the model to this machine first"):
        lookalike.push_to_hub("s3://b/run", "me/shoes")
    for name in ("/shoes", "me/", "me/our shoes", "me/sh\u00f6es"):
        with pytest.raises(ConfigError, match=f"repository='{name}' is not OWNER/NAME"):
            lookalike.push_to_hub(places / "model", name)
    with pytest.raises(ConfigError, match="private='no' must be True or False"):
        lookalike.push_to_hub(places / "model", "me/shoes", private="no")
    assert "files" not in hub


def test_nothing_is_copied_before_the_package_and_the_name_are_checked(
    hub, places, embedder, monkeypatch
):
    """A model may weigh gigabytes."""

    def copied(*_, **__):
        raise AssertionError("copied")

    monkeypatch.setattr("shutil.copy", copied)
    monkeypatch.setattr("shutil.copytree", copied)
    monkeypatch.setattr(Embedder, "save", copied)
    models = [embedder, *(places / name for name in ("export", "run", "model", "a.onnx"))]
    for model in models:
        with pytest.raises(ConfigError, match="'me/a--b' is not a name that the hub accepts"):
            lookalike.push_to_hub(model, "me/a--b")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for model in models:
        with pytest.raises(MissingExtraError, match=r"lookalike\[hub\]"):
            lookalike.push_to_hub(model, "me/shoes")
