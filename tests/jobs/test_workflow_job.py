"""Workflows on each engine: one job that runs `lookalike run` in a folder that stays."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lookalike.cli.submitted_words import submit
from lookalike.errors import ConfigError

WORKFLOW = """images: {uses: read, with: {list: lists/train.txt}}
train: {uses: train, inputs: {train: images.list}, with: {data.val: /data/val.txt, run.workers: 2}}
"""
RESOURCES: dict[str, dict[str, Any]] = {
    "dlc": {"image": "i", "machine": "ecs.gn7i", "gpus": 0, "mounts": ["d-1:/data"]},
    "kubernetes": {"image": "i", "gpus": 2, "mounts": ["shop:/data"]},
    "slurm": {"gpus": 2},
}


@pytest.fixture
def workflow(tmp_path: Path) -> str:
    (tmp_path / "shoes.yaml").write_text(WORKFLOW)
    return str(tmp_path / "shoes.yaml")


def script(on: str, text: str) -> str:
    """The shell text of a request."""
    if on == "dlc":
        return str(json.loads(text)["UserCommand"])
    if on == "kubernetes":
        body = yaml.safe_load(text)
        assert body["kind"] == "Job"
        [container] = body["spec"]["template"]["spec"]["containers"]
        return str(container["command"][2])
    return text


@pytest.mark.parametrize("on", RESOURCES)
def test_workflow_in_a_folder_of_the_job(workflow: str, on: str) -> None:
    text = submit(workflow, on=on, dry_run=True, folder="/data/my flow", **RESOURCES[on])
    found = script(on, text)
    assert "folder='/data/my flow'\nmkdir -p \"$folder\"\n" in found
    assert f"cat > \"$folder\"/shoes.yaml <<'LOOKALIKE_FILE'\n{WORKFLOW}LOOKALIKE_FILE\n" in found
    assert 'exec python -m lookalike run "$folder"/shoes.yaml\n' in found
    assert "mktemp" not in found


def test_workflow_where_it_lies(workflow: str) -> None:
    found = submit(workflow, on="slurm", dry_run=True)
    assert f"exec python -m lookalike run {workflow}\n" in found
    assert "LOOKALIKE_FILE" not in found
    assert "scontrol requeue" in found


@pytest.mark.parametrize(
    ("on", "text", "changes", "message"),
    [
        ("dlc", WORKFLOW, {}, "needs a folder that outlives it"),
        ("kubernetes", WORKFLOW, {}, "needs a folder that outlives it"),
        ("kubernetes", WORKFLOW, {"folder": "/tmp/flow"}, "folder=/tmp/flow: is in no mount"),
        (
            "dlc", WORKFLOW.replace("/data/val", "/other/val"), {"folder": "/data"},
            "train.data.val=/other/val.txt: is in no mount",
        ),
        (
            "dlc", WORKFLOW.replace("run.workers: 2", "data.image_root: /other"),
            {"folder": "/data"}, "train.data.image_root=/other: is in no mount",
        ),
        (
            "dlc",
            WORKFLOW + "scores: {uses: evaluate, inputs: {model: train.run}, "
            "with: {data: /data/test.txt, image_root: /other}}\n",
            {"folder": "/data"}, "scores.image_root=/other: is in no mount",
        ),
        ("slurm", WORKFLOW, {"folder": "flow"}, "is no absolute path"),
        ("slurm", WORKFLOW, {"image": "i"}, "needs a folder that outlives it"),
        ("slurm", WORKFLOW, {"nodes": 2}, "runs on one machine"),
        ("slurm", WORKFLOW, {"workers": 2}, r"set run\.workers in its training"),
        ("slurm", WORKFLOW.replace("images.list", "image.list"), {}, "yaml:2: train: there is no"),
        (
            "slurm", WORKFLOW.replace("lists/train.txt", "'oss://shop/a.txt?Signature=sEcReT'"), {},
            "with a signature or a password",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(
    workflow: str, on: str, text: str, changes: dict[str, Any], message: str
) -> None:
    Path(workflow).write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        submit(workflow, on=on, dry_run=True, **{**RESOURCES[on], **changes})
    assert "sEcReT" not in str(error.value)


def test_settings_and_folders_that_do_not_belong(workflow: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"takes no 'optim\.lr=0\.1'; write it in the file"):
        submit(workflow, "optim.lr=0.1", on="slurm", dry_run=True)
    (tmp_path / "config.yaml").write_text("data: {train: a.txt}\nrun: {output: b}\n")
    with pytest.raises(ConfigError, match="folder=/data: only a workflow has one"):
        submit(str(tmp_path / "config.yaml"), on="slurm", dry_run=True, folder="/data")


def test_command_runs(tmp_path: Path, shapes: Path) -> None:
    flow = tmp_path / "flow.yaml"
    flow.write_text(f"data: {{uses: read, with: {{list: {shapes}/val.txt}}}}\n")
    folder = tmp_path / "of the job"
    text = submit(
        str(flow), on="dlc", dry_run=True, image="i", machine="ecs", python=sys.executable,
        folder=str(folder), mounts=[f"d-1:{tmp_path}", f"d-2:{shapes}"],
    )  # fmt: skip
    done = subprocess.run(
        ["bash", "-c", script("dlc", text)], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"data\tdone\t{shapes}/val.txt\n"
    assert (folder / ".lookalike/flow/data/state.json").exists()
