"""Losses on the first dimensions of the embedding, beside the one on all."""

import pytest
import torch
import torch.nn.functional as F
from engine_process import TINY, curve, records

import lookalike
from lookalike.config.config import Config
from lookalike.data.catalog import open_catalog
from lookalike.distributed.world import World
from lookalike.training.build_heads import create_heads, loss_weights, metric_loss


def test_nested_heads_read_first_dimensions_and_share_the_weight(shapes):
    config = Config().with_values(
        {"model.embedding_dim": 24, "loss.nested_dims": [4, 12], "loss.weight": 3.0,
         "loss.name": "cosface", "loss.classification_weight": 0.0, "head.precision": "fp32"}
    )  # fmt: skip
    heads = create_heads(
        config, metric_loss(config), open_catalog(str(shapes / "train.txt")), World()
    )
    assert {name: head.dim for name, head in heads.items()} == {
        "metric": 24, "metric_4": 4, "metric_12": 12
    }  # fmt: skip
    assert loss_weights(config) == {
        "metric": 1.0, "metric_4": 1.0, "metric_12": 1.0, "classification": 0.0
    }  # fmt: skip
    embeddings, classes = torch.randn(9, 24), torch.randint(0, 8, (9,))
    for head in heads.values():
        x = embeddings[:, : head.dim].double()
        cosines = F.normalize(x, dim=1) @ F.normalize(head.weight.detach().double(), dim=1).T
        cosines[torch.arange(9), classes] -= 0.35
        expected = F.cross_entropy(64 * cosines, classes)
        found = head(embeddings[:, : head.dim], classes).item()
        assert abs(found - expected.item()) < 1e-4 * expected.item()


@pytest.mark.parametrize("parallel", ["data", "model"])
def test_training_resumes_to_the_same_curve(shapes, tmp_path, parallel):
    settings = [
        f"data.train={shapes / 'train.txt'}", "model.backbone=test_resnet", "run.device=cpu",
        "loss.nested_dims=[4, 8]", f"head.parallel={parallel}", "head.fused_update=true", *TINY,
        "train.checkpoint_every_steps=2", "optim.schedule=constant",
    ]  # fmt: skip
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for output, steps in ((whole, 4), (parts, 2), (parts, 4)):
        more = [f"run.output={output}", f"train.max_steps={steps}"]
        lookalike.train(Config.load(None, [*settings, *more]), resume=steps == 4)
    assert curve(parts) == curve(whole)
    assert {"metric_4_loss", "metric_8_loss"} <= records(whole)[-1].keys()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nested_dims": [8, 4]}, "takes ascending numbers of dimensions"),
        ({"nested_dims": [4, 32]}, "each must be less than model.embedding_dim=32"),
        ({"nested_dims": [4], "loss": "adaface"}, "loss.name=adaface does; use arcface"),
    ],
)
def test_mistakes(shapes, tmp_path, settings, message):
    with pytest.raises(lookalike.LookalikeError, match=message):
        lookalike.train(
            train=str(shapes / "train.txt"), output=str(tmp_path / "run"), embedding_dim=32,
            backbone="test_resnet", pretrained=False, device="cpu", image_size=32, **settings,
        )  # fmt: skip
