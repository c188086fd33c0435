"""YAML values that PyYAML reads and writes otherwise than meant."""

import pytest

from lookalike.config.config import Config
from lookalike.config.yaml_lines import read_mapping, write_yaml
from lookalike.errors import ConfigError


@pytest.mark.parametrize(
    "value",
    ["!!bool maybe", "!!timestamp foo", "!!float ''", "!!int ''", "!!set [1]"],
)
def test_a_value_that_does_not_fit_its_tag_is_one_line(value, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.flip: "):
        Config.load(None, [f"data.flip={value}"])
    file = tmp_path / "c.yaml"
    file.write_text(f"data:\n  flip: {value}\n")
    with pytest.raises(ConfigError, match=r"not YAML|data\.flip"):
        Config.load(file)


@pytest.mark.parametrize("sign", ["\x85", "\u2028", "\u2029", "\n"])
def test_texts_keep_their_signs(sign):
    tree, _ = read_mapping(write_yaml({"a": f"b{sign}c"}), "x")
    assert tree == {"a": f"b{sign}c"}


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("data.train=photos #1/train.txt", "data.train", "photos #1/train.txt"),
        ("data.label_column=0", "data.label_column", "0"),
        ("run.output=2024", "run.output", "2024"),
        ("data.label_separator='#'", "data.label_separator", "#"),
        ("data.train='a #1' # a comment", "data.train", "a #1"),
        ("optim.lr=0.1 # a comment", "optim.lr", 0.1),
    ],
)
def test_texts_are_meant_as_they_are_typed(text, key, value):
    assert Config.load(None, [text]).get(key) == value
