"""Inputs that are no squares, from the setting to the vector."""

import json

import numpy as np
import pytest
import yaml

import lookalike
from lookalike.commands.plan import plan
from lookalike.config.config import Config
from lookalike.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "size"),
    [("96", 96), ("[96, 48]", (96, 48)), ("[96, 96]", 96), ("[96]", 96), ("'96'", 96)],
)
def test_a_size_is_a_number_or_height_and_width(text, size):
    config = Config.load(overrides=[f"model.image_size={text}", f"model.train_size={text}"])
    assert config.model.image_size == config.model.train_size == size
    saved = yaml.safe_load(config.to_yaml())["model"]
    assert saved["image_size"] == saved["train_size"] == (96 if size == 96 else [96, 48])
    assert Config.build(yaml.safe_load(config.to_yaml())) == config


@pytest.mark.parametrize("text", ["15", "5000", "[96, 8]", "[1,2,3]", "[]", ".nan", "yes", "96.5"])
def test_a_size_that_is_none_is_one_line(text):
    with pytest.raises(ConfigError, match=r"model\.image_size=.* takes the side .*16 to 4096"):
        Config.load(overrides=[f"model.image_size={text}"])


def test_an_upright_network_trains_and_embeds(shapes, tmp_path):
    settings = {
        "backbone": "test_vit", "pretrained": False, "image_size": [64, 32], "embedding_dim": 8,
        "batch_size": 8, "max_steps": 1, "device": "cpu", "report": False,
    }  # fmt: skip
    run = lookalike.train(
        train=str(shapes / "train.txt"), val=str(shapes / "val.txt"),
        output=str(tmp_path / "run"), **settings,
    )  # fmt: skip
    described = json.loads((run.model / "config.json").read_text())
    assert described["preprocess"]["image_size"] == [64, 32]
    assert "model: test_vit at 64 x 32 px" in run.log.read_text()
    model = lookalike.load(run.path, device="cpu")
    assert model.preprocess.image_size == (64, 32)
    upright = np.zeros((64, 32, 3), np.uint8)
    upright[:32] = 255
    assert model.preprocess.prepare(upright).float().mean() == 127.5  # nothing is cut off
    assert model.embed([upright]).shape == (1, 8)
    planned = plan(classes=10, measure=False, **settings)
    assert planned.spec.image_size == (64, 32)
    square = plan(classes=10, measure=False, **settings | {"image_size": 64})
    assert planned.memory.batches * 2 == square.memory.batches
