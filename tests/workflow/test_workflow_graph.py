"""Files of workflows: what is read, and one line with its place for each fault."""

import inspect
from pathlib import Path

import pytest

import lookalike
from lookalike.commands import evaluate, export, improve, search
from lookalike.commands.read_options import ReadKeywords
from lookalike.config.config import Config
from lookalike.errors import ConfigError
from lookalike.workflow.node_calls import CALLS
from lookalike.workflow.node_kinds import KINDS
from lookalike.workflow.workflow_graph import Workflow

GOOD = """\
evaluate:
  uses: evaluate
  inputs: {model: train.run, data: val.list}
  with: {recall: [1, 10]}
train:
  uses: train
  inputs: {train: list.list, val: val.list}
  with:
    epochs: 2
    optim.momentum: 0.5
    model:
      image_size: 64
list: {uses: read, with: {list: a.txt}}
val: {uses: read, with: {list: b.txt}}
"""


def parse(text):
    return Workflow.parse(text, Path("/w/flow.yaml"), "flow.yaml")


def faults(text):
    with pytest.raises(ConfigError) as error:
        parse(text)
    return str(error.value).splitlines()


def test_nodes_come_after_those_they_depend_on_and_settings_in_any_spelling_are_read():
    nodes = parse(GOOD).nodes
    assert list(nodes) == ["list", "val", "train", "evaluate"]
    assert nodes["train"].settings == {
        "train.epochs": 2, "optim.momentum": 0.5, "model.image_size": 64,
    }  # fmt: skip
    assert nodes["train"].inputs["val"].node == "val"
    assert nodes["evaluate"].line == 1
    assert nodes["val"].line == 14


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("uses: evaluate", "uses: evalute", "flow.yaml:2: evaluate: uses='evalute' is not one of"),
        ("  uses: evaluate\n", "", "flow.yaml:1: evaluate: uses is missing; it is read, doctor"),
        ("uses: evaluate", "uses: os.system", "flow.yaml:2: evaluate: uses='os.system' is not one"),
        ("train.run", "trian.run", "flow.yaml:3: evaluate: there is no node trian; did you mean "
         "train?"),
        ("train.run", "train.model", "flow.yaml:3: evaluate: train has no output model"),
        ("train.run", "val.list", "flow.yaml:3: evaluate: model takes run or export, and val.list "
         "is of type list"),
        ("train.run", "train", "flow.yaml:3: evaluate: model='train' is no output"),
        ("{model: train.run, ", "{", "flow.yaml:1: evaluate: the input model is missing"),
        ("{model: train", "{modl: train", "flow.yaml:3: evaluate: there is no input modl; did you "
         "mean model?"),
        ("[1, 10]", "many", "flow.yaml:4: evaluate: recall='many': "),
        ("recall:", "recal:", "flow.yaml:4: evaluate: there is no setting recal; did you mean"),
        ("epochs: 2", "epochs: some", "flow.yaml:9: train.epochs='some'"),
        ("epochs: 2", "epoch: 2", "flow.yaml:9: train: there is no setting 'epoch'"),
        ("image_size: 64", "image_siz: 64", "flow.yaml:12: model.image_siz is not a key"),
        ("epochs: 2", "train.epochs: 2\n    epochs: 3", "flow.yaml:10: train: train.epochs is "
         "there twice"),
        ("val: {uses: read, with: {list: b.txt}}", "val: {uses: read}", "flow.yaml:14: val: list "
         "is missing"),
        ("val: {uses", "../val: {uses", "flow.yaml:14: '../val' is no name of a node"),
        ("with: {list: b.txt}", "run: rm", "flow.yaml:14: val: run is no part of a node"),
        ("{uses: read, with: {list: b", "{at: 3, uses: read, with: {list: b", "flow.yaml:14: val: "
         "at=3 is no place on the canvas"),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_its_line(old, new, told):
    assert old in GOOD
    assert any(line.startswith(told) for line in faults(GOOD.replace(old, new, 1)))


def test_wrong_settings_do_not_make_what_is_given_missing():
    text = GOOD.replace("list: b.txt", "list: 3").replace("[1, 10]", "{a: 1}")
    text = text.replace("{model: train.run, data: val.list}", "{data: val.list}")
    text = text.replace("recall:", "model: runs/shoes, precision: x, recall:")
    text = text.replace("inputs: {train: list.list, val: val.list}", "inputs: {val: val.list}")
    text = text.replace("epochs: 2", "epochs: some\n    data.train: a.txt")
    place = "flow.yaml:"
    assert faults(text) == [
        f"{place}4: evaluate: precision='x': input should be a valid integer, unable to parse "
        "string as an integer or a valid list",
        f"{place}4: evaluate: recall={{'a': 1}}: input should be a valid integer or a valid list",
        f"{place}9: train.epochs='some': input should be a valid integer, unable to parse string "
        "as an integer",
        f"{place}15: val: list=3: input should be a valid string",
    ]


def test_a_fault_names_its_node_and_setting():
    text = GOOD.replace("epochs: 2", "epochs: some").replace("train.run", "trian.run")
    workflow, found = Workflow.check(text.replace("recall:", "recal:"), Path("/w/f.yaml"), "f.yaml")
    assert [(fault.node, fault.key, fault.line) for fault in found] == [
        ("evaluate", "model", 3), ("evaluate", "recal", 4), ("train", "train.epochs", 8),
    ]  # fmt: skip
    assert found[2].text.startswith("train.epochs='some'")
    assert found[2].message == f"f.yaml:9: {found[2].text}"
    assert sorted(workflow.nodes) == ["evaluate", "list", "train", "val"]


def test_a_circle_is_told():
    text = (
        "a: {uses: train, inputs: {start: b.run}, with: {train: x.txt}}\n"
        "b: {uses: train, inputs: {start: a.run}, with: {train: x.txt}}\n"
        "c: {uses: export, inputs: {model: b.run}}\n"
    )
    assert faults(text) == ["flow.yaml:1: a: depends on itself: a <- b <- a"]


def test_an_output_that_a_setting_makes_needs_it():
    text = (
        "i: {uses: improve, with: {model: m, data: d.txt}}\n"
        "e: {uses: export, inputs: {model: i.run}}\n"
    )
    assert faults(text) == ["flow.yaml:2: e: i gives i.run only with keep"]
    assert list(parse(text.replace("d.txt", "d.txt, keep: flip")).nodes) == ["i", "e"]


def test_a_file_that_refers_to_itself_is_told():
    assert faults("a: &a {uses: improve, with: {variants: *a}}") == [
        "flow.yaml:1: not YAML: an alias stands inside of its own anchor"
    ]
    assert list(parse("a: {uses: read, with: &b {list: x}}\nc: {uses: read, with: *b}").nodes)


def test_an_empty_file_is_told():
    assert faults("") == ["flow.yaml:1: holds no nodes; see lookalike run --example DIR"]


def test_a_list_in_place_of_a_workflow_is_told_so(tmp_path):
    file = tmp_path / "list.txt"
    file.write_text("a.jpg 1\nb.jpg 2\n")
    message = f"^{file}:1: holds no nodes; a workflow is a YAML file as `lookalike run --example"
    with pytest.raises(ConfigError, match=message):
        Workflow.load(file)
    with pytest.raises(ConfigError, match=r"list\.txt:1: holds neither sections nor nodes"):
        lookalike.submit(str(file), on="slurm", dry_run=True)
    with pytest.raises(ConfigError, match=r"list\.txt:1: holds no resources"):
        lookalike.submit("train", "--output=r", on="slurm", resources=str(file), dry_run=True)


@pytest.mark.parametrize("uses", KINDS)
def test_settings_of_nodes_are_those_of_the_command(uses):
    commands = {"evaluate": evaluate.compare, "improve": improve.improve, "export": export.export,
             "index": search.search}  # fmt: skip
    kind = KINDS[uses]
    assert uses in CALLS
    if kind.settings is Config:
        assert {port.key for port in kind.inputs.values()} <= {
            f"{section}.{name}"
            for section, outer in Config.model_fields.items()
            for name in type(outer.default).model_fields
        }
        return
    names = set(kind.settings.model_fields)
    assert {port.key for port in kind.inputs.values()} <= names
    if uses in commands:
        parameters = set(inspect.signature(commands[uses]).parameters)
        keywords = {"evaluate": evaluate.CompareKeywords, "export": export.ExportKeywords}
        own = {"model"} if uses == "evaluate" else set()  # one of its `models`
        assert names - own <= parameters | set(keywords.get(uses, ReadKeywords).__annotations__)
