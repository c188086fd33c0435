"""Numbers in settings: those that cannot be used are refused by the setting, in clear words."""

import math

import pytest

from lookalike.commands.train import train
from lookalike.config.config import Config, keys
from lookalike.data.samplers import Sampling, Sizes, epoch_shape
from lookalike.errors import ConfigError
from lookalike.storage import byte_size

NUMERIC = [key for key, (kind, _, _) in keys().items() if "float" in kind or "int" in kind]
UNUSABLE = [math.inf, -math.inf, math.nan, 1e300, 1e-300, 10**40, -(10**40), "inf", "nan", "9" * 60,
            True]  # fmt: skip


@pytest.mark.parametrize("value", UNUSABLE, ids=repr)
def test_a_number_that_cannot_be_used_is_refused_by_its_setting(value):
    assert len(NUMERIC) > 40
    for key in NUMERIC:
        section, name = key.split(".")
        if value is True and "bool" in keys()[key][0]:
            continue
        given = {"m": value} if key == "loss.options" else value
        with pytest.raises(ConfigError, match=rf"^{section}\.{name}") as told:
            Config.build({section: {name: given}})
        assert len(str(told.value).splitlines()) <= 2, told.value


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "1e400", "1e-400"])
def test_yaml_on_the_command_line(value):
    if value == "1e-400":  # is zero
        with pytest.raises(ConfigError, match=r"^optim\.lr=0\.0"):
            Config.load(None, [f"optim.lr={value}"])
        return
    with pytest.raises(ConfigError, match=r"^optim\.lr=.* is not a finite number"):
        Config.load(None, [f"optim.lr={value}"])


def test_numbers_inside_lists_and_mappings_are_looked_at():
    for tree in (
        {"loss": {"options": {"m": math.inf}}},
        {"data": {"augment": [{"random_erasing": {"p": math.nan}}]}},
        {"data": {"augment": [{"random_erasing": {"scale": [0.1, math.inf]}}]}},
        {"loss": {"nested_dims": [64, math.inf]}},
    ):
        with pytest.raises(ConfigError, match="is not a finite number"):
            Config.build(tree)


def test_numbers_in_use_stay():
    config = Config.build({
        "optim": {"lr": 1e-8, "weight_decay": 0}, "train": {"seed": 2**63 - 1, "epochs": 10**9},
        "model": {"pretrained": True}, "head": {"fused_update": False},
    })  # fmt: skip
    assert config.train.seed == 2**63 - 1


@pytest.mark.parametrize("text", ["9" * 400 + "GB", "9e9TB", "0.1", "99999999999TB", "0.0001k"])
def test_sizes_are_sizes(text):
    with pytest.raises(ValueError, match="is no size"):
        byte_size.in_bytes(text)


@pytest.mark.parametrize("threshold", [1e9, 3e38, 1e300])
def test_a_repeat_threshold_that_makes_an_endless_epoch_is_refused(threshold):
    sizes = Sizes.even(100, 10)
    with pytest.raises(ConfigError, match=r"makes an epoch of .* images out of 100; use a lower"):
        epoch_shape(sizes, 8, Sampling("repeat_factor", threshold=threshold))
    for fine in (1e-9, 0.999, 1, 100, 1e6):
        steps, _ = epoch_shape(sizes, 8, Sampling("repeat_factor", threshold=fine))
        assert steps >= 12
    with pytest.raises(ConfigError, match="makes an epoch of 1e\\+11 images out of 100,000,000"):
        epoch_shape(Sizes.even(10**8, 10**6), 8, Sampling("repeat_factor", threshold=1e8))


def test_class_weights_larger_than_the_machine_are_refused(shapes, tmp_path):
    with pytest.raises(ConfigError, match=r"weights of 1,000,000 classes .* more than the .* GB"):
        train(
            train=str(shapes / "train.txt"), output=str(tmp_path / "run"), num_classes=10**6,
            backbone="test_resnet", pretrained=False, image_size=32, embedding_dim=65536,
            device="cpu",
        )  # fmt: skip
