"""The network as a run begins, and what the recipe chooses by its features."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import lookalike
from lookalike.commands import network_start
from lookalike.commands.network_start import start_network
from lookalike.commands.show_config import show_config
from lookalike.config.config import Config
from lookalike.data.catalog import open_catalog
from lookalike.data.loading.image_source import PLAIN
from lookalike.distributed.world import ALONE
from lookalike.model.embedder import Embedder
from lookalike.planning.choice import Choice
from lookalike.training.build import metric_loss
from lookalike.training.frozen_start import start_features


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(5)
    network = Embedder.create("test_resnet", pretrained=False, image_size=32, embedding_dim=16)
    file = tmp_path / "weights.safetensors"
    save_file(network.backbone.model.state_dict(), file)
    return str(file)


@pytest.mark.parametrize("chosen", ["gem+quarters", "gem+avg"])
def test_the_network_is_that_of_the_chosen_pooling(monkeypatch, shapes, weights, chosen):
    catalog = open_catalog(str(shapes / "train.txt"))
    config = Config.load(
        overrides=[
            f"data.train={shapes / 'train.txt'}", "model.backbone=test_resnet",
            f"model.pretrained={weights}", "model.image_size=32", "model.embedding_dim=16",
            "model.init_from_features=true", "optim.name=adamw",
        ]
    )  # fmt: skip
    expected = {}
    for pooling in ("gem+quarters", "gem+avg"):
        embedder = Embedder.create(
            "test_resnet", pretrained=weights, image_size=32, embedding_dim=16, pooling=pooling
        )
        features = start_features(embedder, catalog)
        features.set_neck(embedder.neck)
        expected[pooling] = embedder, features.scores(embedder.neck)

    def choose(config, starts, held_out):
        assert held_out is None
        assert {name: (each.recall, each.map_at_r) for name, each in starts.items()} == {
            name: (each.recall, each.map_at_r) for name, (_, each) in expected.items()
        }
        return [Choice("model.pooling", chosen, "a test")]

    monkeypatch.setattr(network_start, "choose_by_start", choose)
    found = start_network(
        config, metric_loss(config), catalog, begins=True, source=PLAIN, world=ALONE
    )
    assert "+".join(found.embedder.neck.poolings) == chosen
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    alike = expected[chosen][0].embed_batch(images)
    assert torch.allclose(found.embedder.embed_batch(images), alike, atol=1e-5)


def test_classes_of_a_short_list_with_a_good_start_choose_between_start_and_end(tmp_path, weights):
    run = lookalike.train(
        train=list_of_colours(tmp_path, classes=16), output=tmp_path / "run",
        backbone="test_resnet", epochs=1, pretrained=weights, image_size=32, embedding_dim=16,
        device="cpu", report=False,
    )  # fmt: skip
    choices = {each["key"]: each["value"] for each in json.loads(run.recipe.read_text())}
    assert round(16 * choices["data.val_fraction"]) == 3
    assert choices["train.interpolate"] is True
    assert run.scores()[-1]["queries"] == 9
    assert "interpolation" in run.scores()[-1]


def list_of_colours(folder, classes):
    """Three images a class, of colours that any network tells apart."""
    rng = np.random.default_rng(0)
    lines = []
    for klass in range(classes):
        colour = rng.integers(0, 256, 3)
        for view in range(3):
            pixels = (colour + rng.integers(-9, 9, (32, 32, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{klass}-{view}.png")
            lines.append(f"{klass}-{view}.png {klass}\n")
    (folder / "list.txt").write_text("".join(lines))
    return folder / "list.txt"


def test_training_on_few_classes_with_a_good_start_goes_a_quarter_of_the_way(tmp_path, weights):
    few = list_of_colours(tmp_path, classes=6)
    settings = {
        "train": few, "backbone": "test_resnet", "epochs": 1, "pretrained": weights,
        "image_size": 32, "embedding_dim": 16, "device": "cpu", "report": False,
    }  # fmt: skip
    run = lookalike.train(output=tmp_path / "run", **settings)
    choices = {each["key"]: each["value"] for each in json.loads(run.recipe.read_text())}
    assert choices["train.interpolate"] == 0.25
    assert "data.val_fraction" not in choices
    given = lookalike.train(output=tmp_path / "given", interpolate=False, **settings)
    models = [(each.model / "model.safetensors").read_bytes() for each in (run, given)]
    assert models[0] != models[1]
    text = show_config(**{k: v for k, v in settings.items() if k not in ("device", "report")})
    assert "# interpolate: chosen when training begins" in text
    assert "# val_fraction: chosen" not in text


def test_the_file_of_config_leaves_open_what_the_start_chooses(shapes, weights, tmp_path):
    text = show_config(
        train=shapes / "train.txt", backbone="test_resnet", pretrained=weights, image_size=32
    )
    file = tmp_path / "config.yaml"
    file.write_text(text)
    assert "# pooling: chosen when training begins" in text
    left = {"model.pooling", "optim.backbone_lr_factor"}
    assert not left & Config.load(str(file)).asked()
    run = lookalike.train(
        Config.load(str(file)), output=tmp_path / "run", max_steps=1, report=False
    )
    assert {each["key"] for each in json.loads(run.recipe.read_text())} == left
