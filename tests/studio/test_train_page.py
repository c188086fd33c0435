"""The form: its fields, checks, and what a run gets."""

import re
import shlex
import signal
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from lookalike.config.config import Config, keys
from lookalike.errors import RunError
from lookalike.studio import run_processes
from lookalike.studio.component_form import COMPONENT, COMPUTING_MODE, TABS, form_fields
from lookalike.studio.form_request import read_form
from lookalike.studio.roots import Roots

GIVEN = {
    "Metric learning model type": ("head.parallel", "Model-parallel metric learning", "model"),
    "OSS directory for training output": ("run.output", "oss://bucket/run", "oss://bucket/run"),
    "Training annotation file path": ("data.train", "oss://bucket/t.txt", "oss://bucket/t.txt"),
    "Validation annotation file path": ("data.val", "oss://bucket/v.txt", "oss://bucket/v.txt"),
    "File of class name list": ("data.classes", "[cat, dog]", ["cat", "dog"]),
    "Data source format": ("data.format", "ClsSourceItag", "itag"),
    "OSS path of the pre-trained model": (
        "model.pretrained", "oss://bucket/w.pth", "oss://bucket/w.pth",
    ),
    "Metric learning backbone": ("model.backbone", "swin_transformer_tiny", "swint_tiny"),
    "Image resize size": ("model.image_size", "192", 192),
    "Backbone output feature dimension": ("model.backbone_dim", "768", 768),
    "Feature output dimension": ("model.embedding_dim", "256", 256),
    "Number of training classes": ("data.num_classes", "20", 20),
    "Loss function": ("loss.name", "ArcFaceLoss", "arcface"),
    "Loss function scale parameter": ("loss.scale", "64", 64.0),
    "Loss function margin parameter": ("loss.margin", "28.6", 28.6),
    "Loss function weight": ("loss.weight", "0.5", 0.5),
    "Optimizer": ("optim.name", "AdamW", "adamw"),
    "Initial learning rate": ("optim.lr", "0.01", 0.01),
    "Training batch_size": ("train.batch_size", "128", 128),
    "Total training epochs": ("train.epochs", "7", 7),
    "Checkpoint saving frequency": ("train.checkpoint_every", "1", 1),
    "Training data read threads": ("data.threads", "8", 8),
    "Enable half-precision": ("train.precision", "fp16", "fp16"),
    "Computing mode": (COMPUTING_MODE, "distributed", None),
    "Workers": ("run.workers", "2", 2),
    "GPU model": ("run.device", "cuda", "cuda"),
}  # fmt: skip
"""Parameter of the component -> key, a value as typed, and as the request has it."""

PAGE = Path(__file__).parents[2].parent / "shared/reference/component.md"


def test_every_parameter_of_the_component_has_a_field_under_its_name(client):
    assert [name for _, name, _ in COMPONENT] == sorted(
        GIVEN, key=[name for _, name, _ in COMPONENT].index
    )
    text = client.get("/train").text
    for tab, name, key in COMPONENT:
        panel = text.split(f'id="panel-{TABS.index(tab) + 1}"')[1].split("</section>")[0]
        assert re.search(rf'<label for="f-{re.escape(key)}">{re.escape(name)}\b', panel), name
        assert f'name="{key}"' in panel
    assert {field.key for field in form_fields()} == {*keys(), COMPUTING_MODE}


@pytest.mark.skipif(not PAGE.exists(), reason="the component's page is not in this checkout")
def test_the_page_of_the_component_names_no_other_parameter():
    lines = PAGE.read_text().split("Parameters\n", 1)[1].splitlines()
    rows = {line for line, then in pairwise(lines) if then in ("Yes", "No")} - {
        "Description",
        "Required",
    }
    assert rows == set(GIVEN)


@pytest.mark.parametrize("name", GIVEN)
def test_what_is_typed_is_in_the_request_of_the_run(root, name):
    key, typed, wanted = GIVEN[name]
    found = read_form({key: typed, "train.recipe": "component"}, Roots([root]))
    assert found.errors == {}
    if key == COMPUTING_MODE:  # it permits several workers, which the other one refuses
        assert read_form({key: "standalone", "run.workers": "2"}, Roots([root])).errors
        found = read_form({key: typed, "run.workers": "2"}, Roots([root]))
        key, wanted = "run.workers", 2
    again = Config.load("request.yaml", content=found.config.to_yaml(complete=False).encode())
    assert again.get(key) == wanted


def test_a_fault_is_shown_at_its_field_in_the_words_of_the_command_line(client):
    text = client.post("/train/check", {"optim.lr": "fast", "data.train": "trian.txt"}).text
    assert 'id="error-optim.lr" hx-swap-oob="true">optim.lr=&#39;fast&#39;: ' in text
    assert (
        'id="error-data.train" hx-swap-oob="true">data.train=&#39;trian.txt&#39;: no such' in text
    )
    assert 'id="error-optim.name" hx-swap-oob="true"></p>' in text


def test_the_check_gives_the_command_and_the_file(client, root):
    values = {"data.train": "train.txt", "run.output": "run", "train.epochs": "3"}
    text = client.post("/train/check", values).text
    assert (
        f"lookalike train data.train={root}/train.txt run.output={root}/run train.epochs=3" in text
    )


def test_a_check_of_a_field_does_not_end_that_of_the_data(client):
    text = client.get("/train").text
    buttons = re.findall(r'<button[^>]+hx-post="/train/ask/[^>]+>', text)
    assert len(buttons) == 2
    assert all('hx-sync="this:replace"' in each for each in buttons)  # not that of the form


def test_values_are_shown_as_text(client):
    answer = client.post("/train/start", {"data.weights": "<script>x</script>"})
    assert answer.status_code == 422
    assert "<script>x" not in answer.text
    assert "&lt;script&gt;x" in answer.text


def test_presets_fill_the_form(client, root):
    text = client.get("/train?preset=component").text
    assert 'name="train.recipe" value="component"' in text
    (root / "old/checkpoints").mkdir(parents=True)
    (root / "old/config.yaml").write_text(yaml.safe_dump({"optim": {"lr": 0.0123}}))
    text = client.get("/train?preset=run:old").text
    assert 'name="optim.lr" value="0.0123"' in text
    assert client.get("/train?preset=run:../secret").status_code == 400


def test_the_example_is_unpacked_and_filled_in(client, root):
    assert "Fill in the example" in client.get("/train").text
    for output in ("run", "run-2"):
        answer = client.post("/train/example")
        assert answer.headers["location"] == "/train?preset=file%3Aexample%2Frequest.yaml"
        text = client.get(answer.headers["location"]).text
        assert ">example/data/train.txt</textarea>" in text
        assert f'name="run.output" value="example/{output}"' in text
        (root / "example/run").mkdir(exist_ok=True)
    assert (root / "example/data/LICENSES.md").is_file()


class Child:
    """Takes the place of a process."""

    pid = 2**22 + 5

    def __init__(self, words, **more):
        Child.words = words

    def poll(self):
        return 0


def test_a_run_is_started_by_a_list_of_arguments_and_found_again(client, root, monkeypatch):
    monkeypatch.setattr(run_processes.subprocess, "Popen", Child)
    values = {"data.train": "train.txt", "run.output": "r; touch x", "train.epochs": "3"}
    answer = client.post("/train/start", values)
    assert answer.status_code == 303
    [*_, module, program, command, request] = Child.words
    assert (module, program, command) == ("-m", "lookalike", "train")
    found = Config.load(request)
    assert found.get("run.output") == f"{root}/r; touch x"
    assert found.get("data.train") == f"{root}/train.txt"
    again = run_processes.RunProcesses(root)
    assert again.newest("train", f"{root}/r; touch x").folder == Path(request).parent
    assert client.get(answer.headers["location"]).status_code == 200
    with pytest.raises(RunError, match="nothing that this studio started is running here"):
        again.stop("train", f"{root}/r; touch x", signal.SIGTERM)


def test_the_first_page_is_small(client):
    text = client.get("/train").text
    names = set(re.findall(r'(?:src|href)="(/static/[^"?]+)', text))
    size = len(text) + sum(len(client.get(name).content) for name in names)
    assert size < 300_000
    policy = client.get("/train").headers["content-security-policy"]
    assert "'unsafe-inline'" not in policy
    assert not re.search(r"<[^>]+ (?:style|onclick)=|<script>|<style>", text)


def test_a_check_shows_its_progress_and_then_what_it_has_said(client, root, started, monkeypatch):
    values = {"data.train": "train.txt", "run.output": "r", "optim.lr": "0.1"}
    monkeypatch.setattr(run_processes.StudioProcess, "is_alive", lambda process: True)
    answer = client.post("/train/ask/doctor", values)
    [*_, command, request] = started[0]
    assert command == "doctor"
    assert Config.load(request).asked() == {"data.train", "optim.lr"}
    assert Path(request).stat().st_mode & 0o777 == 0o600
    [link] = re.findall(r'hx-get="(/train/answer\?[^"]+)"', answer.text)
    link = link.replace("&amp;", "&")
    output = Path(request).parent / "output.txt"
    output.write_text("images: 3 of 1,000,000 images, 10 s, 23 s left\n")
    assert "3 of 1,000,000 images" in client.get(link).text
    with output.open("a") as file:
        file.write("training    <b>2 images</b>   \n\nwrong  1\n")
    monkeypatch.setattr(run_processes.StudioProcess, "is_alive", lambda process: False)
    text = client.get(link).text
    assert '<pre tabindex="0">training    &lt;b&gt;2 images&lt;/b&gt;\n\nwrong  1</pre>' in text
    assert "hx-get" not in text
    assert "not possible" not in text
    output.write_text("error: no such list\n")
    assert "not possible" in client.get(link).text
    assert client.post("/train/give-up/doctor", {}).status_code == 409
    assert client.get("/train/answer?what=doctor&number=../1").status_code == 400
    assert "optim.lr" in client.post("/train/ask/plan", {"optim.lr": "fast"}).text
    assert len(started) == 1


def test_a_later_check_ends_the_earlier_one(client, root, started, monkeypatch):
    ended = []
    monkeypatch.setattr(run_processes.StudioProcess, "is_alive", lambda process: True)
    monkeypatch.setattr(run_processes.os, "kill", lambda *given: ended.append(given))
    for command in ("doctor", "plan", "doctor"):
        assert client.post(f"/train/ask/{command}", {"data.train": "train.txt"}).status_code == 200
    assert ended == [(2**22 + 5, signal.SIGTERM)]
    assert client.post("/train/give-up/plan").status_code == 200
    assert len(ended) == 2


def test_the_command_means_the_values_of_the_form(tmp_path):
    """Of the shell's words, as the command line reads them."""
    (tmp_path / "photos #1").mkdir()
    (tmp_path / "photos #1/train.txt").write_text("a.jpg cat\n")
    found = read_form(
        {
            "data.train": str(tmp_path / "photos #1/train.txt"),
            "run.output": str(tmp_path / "out: new"),
            "data.label_separator": "|",
            "model.image_size": "[64, 32]",
        },
        Roots([tmp_path]),
    )
    assert not found.errors
    config = Config.load(None, shlex.split(found.command)[2:])
    assert config == found.config
