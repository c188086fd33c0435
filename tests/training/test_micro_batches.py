"""Batches of one image: trained if the batch norms allow it, else refused with the fixes."""

import pytest
from engine_process import records

from lookalike.commands.plan import plan
from lookalike.commands.train import train
from lookalike.config.config import Config
from lookalike.distributed.world import World
from lookalike.errors import ConfigError
from lookalike.model.embedder import Embedder
from lookalike.training.build import create_embedder
from lookalike.training.build_heads import metric_loss
from lookalike.training.resolve import check_micro_batches, resolve

TWO = World(size=2)
REFUSED = {
    "backbone": "test_resnet", "pretrained": False, "image_size": 32, "embedding_dim": 8,
    "classification_weight": 0.0, "batch_size": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def embedders():
    """Feature maps of one and of four positions, and a norm over the embedding."""
    common = {"pretrained": False, "embedding_dim": 8}
    return {
        "small": Embedder.create("test_resnet", image_size=32, **common),
        "large": Embedder.create("test_resnet", image_size=64, **common),
        "free": Embedder.create("test_vit", image_size=64, normalize=False, **common),
    }


def check(embedder, world, batch_size=None, **values):
    height = embedder.preprocess.image_size
    values = {"loss__classification_weight": 0.0, "train__batch_size": 1, **values}
    config = Config().with_settings({"model__image_size": height, **values})
    check_micro_batches(config, embedder, batch_size or config.train.batch_size, world)


@pytest.mark.parametrize(
    ("name", "world", "values", "words"),
    [
        (
            "small", World(), {},
            r"^train\.batch_size=1 puts one image at a time .* at 32 px .* batch norm "
            r"backbone\.layer4\.0\.bn1 and 2 more, which needs two; set train\.batch_size=2 or "
            r"more, or train\.freeze_batchnorm=true, or model\.image_size=64$",
        ),
        (
            "small", World(), {"train__batch_size": 6, "train__accumulate": 4},
            r"=6 with train\.accumulate=4 .*=8 or more, or train\.accumulate=3 or less, or",
        ),
        (
            "small", TWO, {"train__batch_size": 3, "train__sync_batchnorm": False},
            r"=3 on 2 workers .* train\.batch_size=4 or more, or train\.sync_batchnorm=true, or",
        ),
        (
            "free", World(), {"loss__name": "magface", "train__freeze_batchnorm": True},
            r"neck\.norm \(of loss\.name=magface\), .* set train\.batch_size=2 or more$",
        ),
        (
            "large", World(), {"loss__classification_weight": 1.0},
            r"norm branch\.norm .*=2 or more, or loss\.classification_weight=0$",
        ),
    ],
)  # fmt: skip
def test_one_image_for_a_norm_of_one_value_is_refused(embedders, name, world, values, words):
    with pytest.raises(ConfigError, match=words):
        check(embedders[name], world, **values)


@pytest.mark.parametrize(
    ("name", "world", "values"),
    [
        ("large", World(), {}),
        ("small", World(), {"train__batch_size": 2}),
        ("small", World(), {"train__freeze_batchnorm": True}),
        ("small", World(), {"train__freeze_backbone": True}),
        ("small", TWO, {"train__batch_size": 2}),
        ("small", TWO, {"train__batch_size": 4, "train__sync_batchnorm": False}),
        ("free", TWO, {"train__batch_size": 2, "loss__name": "magface"}),
    ],
)
def test_trainable_batches_of_one_are_accepted(embedders, name, world, values):
    check(embedders[name], world, **values)


def test_short_list_limits_the_batch_size(embedders):
    with pytest.raises(
        ConfigError, match=r"=64 \(1 by the list\) .* set a list of more images, or"
    ):
        check(embedders["small"], World(), batch_size=1, train__batch_size=64)
    with pytest.raises(ConfigError, match=r"accumulate=9 .*=64 \(8 by the list\) gives 8 to each"):
        check(embedders["small"], World(), batch_size=8, train__batch_size=64, train__accumulate=9)


def test_batches_of_one_image_train(shapes, tmp_path):
    wanted = {
        "train": str(shapes / "train.txt"), "output": str(tmp_path / "run"), "batch_size": 1,
        "backbone": "test_resnet", "pretrained": False, "embedding_dim": 8, "device": "cpu",
        "threads": 0, "log_every": 1, "classification_weight": 0.0, "report": False, "max_steps": 2,
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"^train\.batch_size=1 puts one image at a time"):
        train(**wanted, image_size=32)
    run = train(**wanted, image_size=64)
    assert [r["skipped"] for r in records(run.path) if "loss" in r] == [0, 0]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"batch_size": 3, "workers": 2, "sync_batchnorm": False},
        {"batch_size": 1, "workers": 2},
        {"batch_size": 8, "accumulate": 8},
        {"batch_size": 8, "accumulate": 9},
    ],
)
def test_plan_refuses_what_train_refuses(values):
    """The same message; `train` computes its batch size from the list."""
    config = Config.of(None, {**REFUSED, **values})
    world = World(size=config.run.workers)

    def check_as_train() -> None:
        margin = metric_loss(config)
        embedder = create_embedder(config, margin)
        resolved = resolve(config, margin, embedder, world, 10)
        check_micro_batches(resolved, embedder, config.train.batch_size, world)

    with pytest.raises(ConfigError) as expected:
        check_as_train()
    with pytest.raises(ConfigError) as found:
        plan(config, classes=10, measure=False)
    assert str(found.value) == str(expected.value)


def test_plan_accepts_batches_of_one_where_train_does():
    config = Config.of(None, {**REFUSED, "freeze_batchnorm": True})
    assert plan(config, classes=10, measure=False).spec.micro_batch == 1
