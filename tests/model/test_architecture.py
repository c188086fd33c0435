"""Backbones of the hub and of folders."""

import json
import logging
import shutil
import time

import pytest
import timm
import torch

import lookalike
from lookalike.errors import ModelError
from lookalike.model.embedder import Embedder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A ResNet of one layer a stage, as `save_for_hf` writes it."""
    place = tmp_path_factory.mktemp("timm") / "mine"
    model = timm.create_model("test_resnet", num_classes=7, layers=(1, 1, 1, 1))
    timm.models.save_for_hf(
        model,
        str(place),
        model_config={"num_classes": 7, "pretrained_cfg": {"mean": [0.1, 0.2, 0.3]}},
        model_args={"layers": [1, 1, 1, 1]},
        safe_serialization=True,
    )
    return place, model


def test_a_folder_gives_architecture_weights_and_normalisation(folder, tmp_path):
    place, model = folder
    embedder = Embedder.create(f"local-dir:{place}", image_size=48, embedding_dim=8)
    theirs = model.state_dict()
    for name, value in embedder.backbone.model.state_dict().items():
        assert torch.equal(value, theirs[name]), name
    assert embedder.preprocess.mean == (0.1, 0.2, 0.3)

    # The saved model needs neither the folder nor its name.
    embedder.save(tmp_path / "model")
    described = json.loads((tmp_path / "model" / "config.json").read_text())
    assert described["backbone"] == "test_resnet"
    assert described["backbone_args"] == {"layers": [1, 1, 1, 1]}
    loaded = lookalike.load(tmp_path / "model", device="cpu")
    assert loaded.fingerprint() == embedder.fingerprint()


def test_the_hub_gives_architecture_weights_and_normalisation(folder, tmp_path, monkeypatch):
    """From the hub's cache on this machine, which its own client reads; nothing is downloaded."""
    from huggingface_hub import constants

    place, model = folder
    repository = tmp_path / "models--someone--mine"
    shutil.copytree(place, repository / "snapshots" / "0123abcd")
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("0123abcd")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    embedder = Embedder.create("hf-hub:someone/mine", image_size=48, embedding_dim=8)
    theirs = model.state_dict()
    for name, value in embedder.backbone.model.state_dict().items():
        assert torch.equal(value, theirs[name]), name
    assert embedder.preprocess.mean == (0.1, 0.2, 0.3)


def test_a_random_start_takes_the_architecture_alone(folder):
    place, model = folder
    embedder = Embedder.create(
        f"local-dir:{place}", pretrained=False, image_size=48, embedding_dim=8
    )
    theirs = model.state_dict()
    ours = embedder.backbone.model.state_dict()
    assert ours.keys() <= theirs.keys()
    assert not all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read as timm writes it"),
        ("[]", "cannot be read as timm writes it"),
        ('{"architecture": 5}', "names the architecture 5"),
        ('{"architecture": "nonsense"}', "names the architecture 'nonsense'"),
        ('{"architecture": "test_resnet", "model_args": {"in_chans": 1}}', "images of 1 channels"),
        ('{"architecture": "test_resnet", "model_args": {"layers": "x"}}', "cannot build it"),
        ('{"architecture": "test_resnet"}', "are not available from local-dir:"),
    ],
)
def test_a_broken_folder_is_one_line(tmp_path, content, words):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=words) as caught:
        Embedder.create(f"local-dir:{tmp_path}", image_size=48)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("test_resnet", "model.pretrained=false for random initialisation"),
        ("hf-hub:timm/test_resnet.r160_in1k", "the config.json of timm/test_resnet.r160_in1k"),
    ],
)
def test_no_network_is_one_line_within_seconds(tmp_path, monkeypatch, caplog, name, words):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    with caplog.at_level(logging.INFO), pytest.raises(ModelError, match="cannot be reached") as it:
        Embedder.create(name, image_size=48)
    assert words in str(it.value)
    assert "\n" not in str(it.value)
    assert not caplog.records
    assert time.monotonic() - began < 30  # its client alone would try for a minute


def test_names_of_timm_in_any_spelling():
    from lookalike.model.architecture import find_architecture

    for name in ("ConvNeXt-Tiny", "convnext_tiny", "ConvNext Tiny"):
        assert find_architecture(name) == find_architecture("convnext_tiny")
    with pytest.raises(ModelError, match="neither one of"):
        find_architecture("ConvNeXt-Teeny")
