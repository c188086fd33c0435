"""The page Workflow: files, checks, saving, runs and what they have made."""

import fcntl
import json

import pytest

from lookalike.config.config import keys
from lookalike.storage.file_lock import is_held
from lookalike.studio import run_processes
from lookalike.studio.node_form import node_fields, text_of, value_of
from lookalike.workflow.node_kinds import KINDS
from lookalike.workflow.workflow_graph import Workflow

FLOW = """\
learn: {uses: read, with: {list: train.txt}}
fit:  # goes
  uses: train
  inputs: {train: learn.list}
  with: {epochs: 1, model: {image_size: 64}, val: val.txt}
measure: {uses: evaluate, inputs: {model: fit.run, data: learn.list}, with: {recall: [1, 2]}}
"""


@pytest.fixture
def flow(root):
    (root / "flow.yaml").write_text(FLOW)
    return root / "flow.yaml"


def opened(client, file="flow.yaml"):
    return client.get("/workflow/graph", params={"file": file}).json()


def post(client, act, **body):
    return client.ask("POST", f"/workflow/{act}", json={"file": "flow.yaml", **body})


def node(graph, name):
    return next(each for each in graph["nodes"] if each["name"] == name)


def test_workflows_are_listed_and_other_files_are_not(client, flow, root):
    (root / "config.yaml").write_text("optim: {lr: 0.1}\n")
    (root / "bad.yml").write_text("a: {uses: what}\n")
    text = client.get("/workflow").text
    assert "canvas?file=flow.yaml" in text
    assert "canvas?file=bad.yml" in text
    assert "config.yaml" not in text
    text = client.get("/workflow/canvas?file=bad.yml").text
    assert "is no node that can be drawn" in text
    assert "1 comment below the head" in client.get("/workflow/canvas?file=flow.yaml").text


def test_what_is_opened_and_saved_runs_as_before(client, flow):
    found = opened(client)
    settings = {each["key"]: each["text"] for each in node(found["graph"], "fit")["settings"]}
    assert settings == {"train.epochs": "1", "model.image_size": "64", "data.val": "val.txt"}
    before = Workflow.load(flow)
    answer = post(client, "save", version=found["version"], graph=found["graph"])
    assert answer.json()["faults"] == []
    assert flow.read_text() == answer.json()["text"]
    assert "image_size: 64" in flow.read_text()
    after = Workflow.load(flow)
    for name, each in before.nodes.items():
        assert (each.settings, each.inputs) == (
            after.nodes[name].settings,
            after.nodes[name].inputs,
        )
    again = opened(client)
    assert again["graph"] == found["graph"]
    assert again["version"] == answer.json()["version"]


def test_a_file_that_another_program_has_changed_is_not_replaced(client, flow):
    found = opened(client)
    flow.write_text(FLOW + "# of mine\n")
    answer = post(client, "save", version=found["version"], graph=found["graph"])
    assert answer.status_code == 409
    assert "has changed the file since" in answer.json()["detail"]
    assert flow.read_text().endswith("# of mine\n")
    assert post(client, "save", version="", graph=found["graph"]).status_code == 409


def test_a_new_file_is_made_by_saving(client, root):
    answer = client.post("/workflow/new", {"file": "flow"})
    assert answer.headers["location"] == "/workflow/canvas?file=flow.yaml"
    assert opened(client)["graph"]["nodes"] == []
    assert not (root / "flow.yaml").exists()
    nodes = [
        {
            "name": "a",
            "uses": "read",
            "settings": [{"key": "list", "path": ["list"], "text": "train.txt"}],
        }
    ]
    assert post(client, "save", graph={"nodes": nodes}).status_code == 200
    assert list(Workflow.load(root / "flow.yaml").nodes) == ["a"]
    assert client.post("/workflow/new", {"file": "flow"}).status_code == 400


def test_faults_come_with_their_node_in_the_words_of_the_command_line(client, flow):
    graph = opened(client)["graph"]
    node(graph, "measure")["inputs"] = {"model": "learn.list"}
    node(graph, "fit")["settings"][0]["text"] = "many"
    answer = post(client, "check", graph=graph).json()
    flow.write_text(answer["text"])
    _, wanted = Workflow.check(answer["text"], flow, "flow.yaml")
    assert [(each["node"], each["key"]) for each in answer["faults"]] == [
        ("fit", "train.epochs"), ("measure", ""), ("measure", "model"),
    ]  # fmt: skip
    assert [each["message"] for each in answer["faults"]] == [each.message for each in wanted]
    answer = post(client, "run")
    assert answer.status_code == 400
    assert "measure: model takes run or export, and learn.list is of type list" in answer.text


@pytest.mark.parametrize(
    ("uses", "key", "text"),
    [
        ("read", "list", "/etc/passwd"),
        ("read", "list", "../secret.txt"),
        ("read", "list", "~/x"),
        ("read", "list", "file:///etc/passwd"),
        ("read", "list", "http://127.0.0.1/x"),
        ("read", "list", "{/etc/passwd,a}"),
        ("train", "data.train", "[train.txt, /etc/passwd]"),
        ("train", "run.output", "/etc/run"),
        ("train", "model.backbone", "local-dir:/etc"),
        ("train", "model.pretrained", "/etc/passwd"),
        ("export", "output", "/etc/model.onnx"),
        ("index", "cache", "/tmp"),
    ],
)
def test_paths_out_of_the_roots_are_faults_and_are_not_run(
    client, flow, monkeypatch, uses, key, text
):
    monkeypatch.setattr(run_processes.subprocess, "Popen", lambda *_, **__: 1 / 0)
    given = [{"key": key, "path": [key], "text": text}]
    graph = {"nodes": [{"name": "a", "uses": uses, "settings": given}]}
    found = post(client, "check", graph=graph).json()
    assert any(each["node"] == "a" and each["key"] == key for each in found["faults"])
    flow.write_text(found["text"])
    assert post(client, "run").status_code == 400


def test_a_missing_input_is_a_fault_unless_a_connection_wins_over_it(client, flow):
    flow.write_text(FLOW.replace("val: val.txt", "val: lost.txt, train: gone.txt"))
    [found] = post(client, "check", graph=opened(client)["graph"]).json()["faults"]
    assert (found["node"], found["key"]) == ("fit", "data.val")
    assert found["text"] == "fit: lost.txt: no such file or folder"


@pytest.mark.parametrize("name", ["../flow.yaml", "/etc/a.yaml", "train.txt", ".x/a.yaml", "a", ""])
def test_other_files_are_not_workflows(client, flow, name):
    for path in ("canvas", "graph", "state"):
        assert client.get(f"/workflow/{path}", params={"file": name}).status_code == 400
    for act in ("save", "run", "stop", "plan", "check"):
        answer = client.ask("POST", f"/workflow/{act}", json={"file": name, "graph": {"nodes": []}})
        assert answer.status_code == 400
    assert client.post("/workflow/example", {"folder": "../x"}).status_code == 400


@pytest.mark.parametrize(
    "body",
    [
        "[]",
        "{",
        '{"file": 5}',
        '{"file": "\\ud800.yaml"}',
        '{"file": "flow.yaml", "graph": {"nodes": [{"name": "\\ud800", "uses": "read"}]}}',
        '{"file": "flow.yaml", "graph": {"nodes": [{"name": "a", "uses": "x", "at": [-1, 2]}]}}',
        '{"file": "flow.yaml", "graph": {"nodes": [], "head": "a: {uses: read}"}}',
        '{"file": "flow.yaml", "graph": {"nodes": [{"name": "a", "uses": "train", "settings": ['
        '{"key": "q", "path": ["model"], "text": "5"}, '
        '{"key": "q", "path": ["model", "x"], "text": "&a [*a]"}]}]}}',
    ],
)  # fmt: skip
def test_a_malformed_request_is_refused(client, flow, body):
    for act in ("check", "save"):
        headers = {"content-type": "application/json"}
        answer = client.ask("POST", f"/workflow/{act}", content=body.encode(), headers=headers)
        assert answer.status_code in (400, 422)
    assert flow.read_text() == FLOW


def test_pages_of_other_sites_change_nothing(client, flow):
    graph = opened(client)
    for act in ("save", "run", "stop", "plan"):
        body = {"file": "flow.yaml", "version": graph["version"], "graph": {"nodes": []}}
        for headers in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}):
            answer = client.ask("POST", f"/workflow/{act}", json=body, headers=headers)
            assert answer.status_code == 403
    assert flow.read_text() == FLOW


class Child:
    """Takes the place of a process."""

    pid = 2**22 + 5

    def __init__(self, words, **more):
        Child.words = list(words)

    def poll(self):
        return 0


def test_a_run_is_a_process_whose_state_is_read_from_files(client, flow, root, monkeypatch):
    monkeypatch.setattr(run_processes.subprocess, "Popen", Child)
    assert post(client, "run", only="learn").status_code == 200
    assert Child.words[-4:] == ["run", str(flow), "--only", "learn"]
    assert post(client, "run", only="lern").status_code == 400
    assert post(client, "stop").status_code == 409  # it has ended

    states = root / ".lookalike/flow"
    run = states / "fit/1/run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("optim: {lr: 0.1}\n")
    (states / "measure").mkdir()
    scores = states / "measure/1.json"
    scores.write_text(json.dumps({"recall_at_1": 0.5, "map_at_r": 0.25}))
    (states / "fit/log.txt").write_text("it trains\n")
    state = {"state": "running", "fingerprint": "", "attempt": 1, "seconds": 2.0, "outputs": {}}
    (states / "fit/state.json").write_text(json.dumps(state))
    done = {"scores": {"place": str(scores), "digest": ""}}
    (states / "measure/state.json").write_text(
        json.dumps({**state, "state": "done", "outputs": done})
    )
    (states / "learn").mkdir()
    (states / "learn/state.json").write_text("{")

    (states / ".lock").touch()
    with (states / ".lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert is_held(states / ".lock")
        found = client.get("/workflow/state?file=flow.yaml").json()
        assert found["running"]
        assert not found["can_stop"], "another program runs it"
        assert found["nodes"]["fit"]["state"] == "running"
        assert post(client, "run").status_code == 409
    found = client.get("/workflow/state?file=flow.yaml").json()
    assert not found["running"]
    assert found["nodes"]["fit"]["state"] == "interrupted"
    [run_link] = found["nodes"]["fit"]["results"]
    assert "/watch/run?run=.lookalike%2Fflow%2Ffit%2F1%2Frun" in run_link["address"]
    assert client.get(run_link["address"]).status_code == 200
    assert "is damaged" in found["nodes"]["learn"]["error"]
    [told, link] = found["nodes"]["measure"]["results"]
    assert told == {"text": "Recall@1 50.0 %, MAP@R 25.0 %"}
    assert client.get(link["address"]).json() == {"recall_at_1": 0.5, "map_at_r": 0.25}
    assert client.get("/workflow/log?file=flow.yaml&node=fit").json() == {"log": "it trains\n"}
    assert client.get("/workflow/log?file=flow.yaml&node=../fit").json() == {"log": ""}

    done["scores"]["place"] = str(root.parent / "secret.txt")
    (states / "measure/state.json").write_text(
        json.dumps({**state, "state": "done", "outputs": done})
    )
    assert client.get(link["address"]).status_code == 400


def test_what_the_command_said_of_nodes_that_did_not_run_is_shown(client, flow, monkeypatch):
    monkeypatch.setattr(run_processes.subprocess, "Popen", Child)
    post(client, "run")
    [folder] = (flow.parent / ".lookalike-studio").glob("[0-9]*")
    (folder / "output.txt").write_text(
        "learn\tkept\tx\nfit\tfailed\tno\nmeasure\theld back\tdepends on fit\nerror: fit: no\n"
    )
    found = client.get("/workflow/state?file=flow.yaml").json()
    assert found["nodes"]["learn"]["note"] == "kept"
    assert found["nodes"]["measure"]["note"] == "held back: depends on fit"
    assert found["error"] == "fit: no"


@pytest.mark.parametrize("uses", KINDS)
def test_every_setting_has_a_field(client, flow, uses):
    names = {field.key for field in node_fields(uses)}
    own = set(KINDS[uses].settings.model_fields)
    assert names == (set(keys()) if "data" in own and "run" in own else own)
    text = client.get(f"/workflow/fields?file=flow.yaml&uses={uses}").text
    assert all(f'name="{name}"' in text for name in names)


@pytest.mark.parametrize(
    ("uses", "key", "value"),
    [("evaluate", "recall", [1, 10]), ("evaluate", "recall", 1), ("read", "list", "*.txt"),
     ("read", "list", "10"), ("read", "list", "{a,b}.txt"), ("evaluate", "split", None),
     ("train", "model.pretrained", True), ("train", "model.pretrained", "true"),
     ("train", "data.train", ["a.txt", "b c.txt"]), ("train", "optim.lr", 1e-5),
     ("train", "data.classes", ["1", "no"]), ("improve", "keep", "yes"),
     ("evaluate", "full", True), ("export", "max_images", 10)],
)  # fmt: skip
def test_the_text_of_a_value_means_that_value(uses, key, value):
    assert value_of(uses, key, text_of(value)) == value


def test_picked_files_are_named_from_the_folder_of_the_workflow(client, root):
    (root / "sub").mkdir()
    (root / "sub/list.txt").touch()
    answer = client.get("/browse", params={"field": "list", "folder": "sub", "base": "sub"}).text
    assert 'data-pick="list.txt"' in answer
    answer = client.get("/browse", params={"field": "list", "base": "sub"}).text
    assert f'data-pick="{root}/train.txt"' in answer
    assert client.get("/browse?field=list&base=..").status_code == 400
