"""Workflows while they are edited: from text to draft and back without loss."""

from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lookalike.config.yaml_lines import read_mapping, read_value, write_yaml
from lookalike.errors import ConfigError
from lookalike.workflow.workflow_draft import DraftNode, WorkflowDraft
from lookalike.workflow.workflow_graph import Workflow

TEXT = """\
# A head,
# of two lines.

train:
  uses: train        # a comment that goes
  inputs: {val: "val.list"}
  with:
    epochs: 3
    optim.lr: 1e-3
    train: '*.txt # no comment'
    model: {backbone: resnet18, image_size: 64}
    data.classes: [cat, '010', "1:30", 'null']
  at: [2, 0]
val: {uses: read, with: {list: 'a: b'}}
# And one more.
"""

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12),
    st.sampled_from(
        ["1e-4", "1:30", "010", "0o10", "null", "yes", "*x", "{a,b}", "a\nb", "2026-01-02"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abc"), inner, max_size=2)
    ),
    max_leaves=4,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(value=VALUES)
@example(value="\U00018cd6")  # a letter that this Python's Unicode does not have
def test_yaml_is_read_as_it_was_written(value):
    for flow in (False, True):
        assert read_value(write_yaml(value, flow=flow)) == value
    tree, _ = read_mapping(write_yaml({"a": value}), "x")
    assert tree == {"a": value}


@settings(max_examples=80, deadline=None)
@given(values=st.dictionaries(st.sampled_from(["epochs", "lr", "odd key", "x"]), VALUES))
def test_a_draft_is_read_as_it_was_written(values):
    given_settings = {(key,): value for key, value in values.items()}
    nodes = [
        DraftNode("a", "read", {}, {("list",): "x"}),
        DraftNode("b", "train", {"train": "a.list"}, given_settings, (3, 1)),
    ]
    draft = WorkflowDraft(nodes, "# head\n")
    assert WorkflowDraft.read(draft.text(), "x") == draft


def test_everything_but_comments_below_the_head_stays():
    draft = WorkflowDraft.read(TEXT, "flow.yaml")
    assert draft.head == "# A head,\n# of two lines.\n"
    assert draft.lost_comments == 2
    text = draft.text()
    assert text.startswith("# A head,\n# of two lines.\n\ntrain:\n  uses: train\n")
    again = WorkflowDraft.read(text, "flow.yaml")
    assert again.nodes == draft.nodes
    assert again.lost_comments == 0
    before, _ = read_mapping(TEXT, "x")
    after, _ = read_mapping(text, "x")
    assert before == after


def test_the_example_stays_as_it_is():
    text = (files("lookalike") / "workflow" / "example.yaml").read_text("utf-8")
    path = Path("/w/workflow.yaml")
    saved = WorkflowDraft.read(text, "x").text()
    nodes = Workflow.parse(text, path).nodes
    assert {name: node.settings for name, node in Workflow.parse(saved, path).nodes.items()} == {
        name: node.settings for name, node in nodes.items()
    }
    assert "inputs: {train: read_train.list, val: read_val.list}\n" in saved


@pytest.mark.parametrize(
    "text",
    ["a: 5", "a: {uses: rm}", "a: {uses: read, run: x}", "a: {uses: read, with: [1]}",
     "5: {uses: read}", "a: {uses: read, inputs: {b: [c]}}", "a: {uses: read, at: here}",
     "a: {uses: read, with: {1: x}}", "a: &a {uses: train, with: {loss: *a}}", "a: [", "- x"],
)  # fmt: skip
def test_what_cannot_be_drawn_is_for_an_editor(text):
    with pytest.raises(ConfigError):
        WorkflowDraft.read(text, "flow.yaml")


def test_names_are_there_once():
    with pytest.raises(ConfigError, match="a: two nodes have this name"):
        WorkflowDraft([DraftNode("a", "read"), DraftNode("a", "read")]).text()


def test_aliases_do_not_grow_without_bound():
    rows = ["a: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"b{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    text = "n:\n  uses: train\n  with:\n" + "".join(f"    {row}\n" for row in rows)
    with pytest.raises(ConfigError, match="no node that can be drawn"):
        WorkflowDraft.read(text, "flow.yaml")
    bomb = read_value(f"{{{', '.join(rows)}}}")
    with pytest.raises(ConfigError, match="more than 10,000 values"):
        WorkflowDraft([DraftNode("n", "train", {}, {("augment",): bomb})]).text()


def test_a_setting_is_there_once():
    settings = {("model",): 5, ("model", "image_size"): 3}
    with pytest.raises(ConfigError, match="n: model is there twice"):
        WorkflowDraft([DraftNode("n", "train", {}, settings)]).text()
