"""Stdout carries the answer of a command, and nothing else."""

import importlib
import json
import sys

import numpy as np
import pytest
import yaml

from lookalike import cli, log
from lookalike.cli import COMMANDS
from lookalike.distributed.launch import is_answering
from lookalike.run import Run


@pytest.fixture(scope="module")
def parts(shapes, many_shapes, tmp_path_factory):
    """A run of one step, with the model and the lists that the commands below need."""
    import lookalike

    folder = tmp_path_factory.mktemp("stdout")
    lookalike.train(
        train=str(shapes / "train.txt"), val=str(shapes / "val.txt"), output=str(folder / "run"),
        backbone="test_resnet", pretrained=False, image_size=32, embedding_dim=16, max_steps=1,
        batch_size=8, threads=2, device="cpu", report=False,
    )  # fmt: skip
    flow = f"data: {{uses: read, with: {{list: {shapes}/val.txt}}}}\n"
    (folder / "flow.yaml").write_text(flow)
    job = f"data: {{train: {shapes}/train.txt}}\nrun: {{output: {folder}/job}}\n"
    (folder / "job.yaml").write_text(job)
    return {"run": folder / "run", "shapes": shapes, "many": many_shapes, "folder": folder}


ANSWERS = {
    "train": "--train {shapes}/train.txt --output {folder}/second --backbone test_resnet "
    "model.pretrained=false model.image_size=32 model.embedding_dim=16 train.max_steps=1 "
    "train.batch_size=8 data.threads=2 run.device=cpu train.report=false",
    "tune": "--train {many} --output {folder}/tune --trials 1 --epochs 1 --backbone test_resnet "
    "model.pretrained=false model.image_size=32 model.embedding_dim=16 data.threads=0 "
    "run.device=cpu",
    "search": "{run} {shapes}/images/0-0.jpg --gallery {shapes}/images --json --k 2",
    "evaluate": "{run} --data {shapes}/val.txt --json",
    "improve": "{run} --data {shapes}/val.txt --variant flip --json",
    "config": "--train {shapes}/train.txt model.pretrained=false model.backbone=test_resnet",
    "plan": "--classes 10 --images 100 --gpu t4 model.backbone=test_resnet --json "
    "model.pretrained=false model.image_size=32",
    "backbones": "--task animals --size small --json",
    "embed": "{run} {shapes}/images/0-0.jpg -o {folder}/v.npy",
    "export": "{run} --format safetensors -o {folder}/exported",
    "report": "{run} --output {folder}/page.html",
    "run": "{folder}/flow.yaml",
    "doctor": "--train {shapes}/train.txt --no-images",
    "submit": "{folder}/job.yaml --on slurm --dry-run",
}


@pytest.mark.parametrize("command", ANSWERS)
def test_lines_and_progress_go_to_stderr(command, parts, monkeypatch, capsys, tmp_path):
    """Without handlers of pytest's, as in a process of the program's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("logging.root.handlers", [])
    monkeypatch.setattr(log.logger, "handlers", [])
    words = ANSWERS[command].format(**parts).split()
    monkeypatch.setattr(sys, "argv", ["lookalike", command, *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    log.logger.info("a line of the log")
    said = capsys.readouterr()
    assert "a line of the log" in said.err
    assert "a line of the log" not in said.out
    if "--json" in words:
        [line] = said.out.splitlines()
        assert isinstance(json.loads(line), dict)
    elif command == "train":
        assert said.out == f"{parts['folder'] / 'second'}\n"
        assert "peak memory of the main worker" in said.err
    elif command == "tune":
        assert said.out == f"{parts['folder'] / 'tune' / 'recipe.yaml'}\n"
    elif command == "config":
        assert yaml.safe_load(said.out)["optim"]["name"] == "adamw"
        assert "  # " in said.out
    elif command == "run":
        assert said.out == f"data\tdone\t{parts['shapes'] / 'val.txt'}\n"
    elif command == "submit":
        assert said.out.startswith("#!/bin/bash")
    elif command == "doctor":
        assert "8 classes" in said.out
    else:
        assert said.out == ""
    if command == "embed":
        assert np.load(parts["folder"] / "v.npy").shape == (1, 16)


def test_quickstart_prints_the_directory_of_its_run(monkeypatch, capsys, tmp_path):
    module = importlib.import_module("lookalike.commands.quickstart")
    monkeypatch.setattr(module, "quickstart", lambda output, seed: Run(tmp_path / output))
    monkeypatch.setattr(sys, "argv", ["lookalike", "quickstart", "--output", "here"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    assert capsys.readouterr().out == f"{tmp_path / 'here'}\n"


@pytest.mark.parametrize(
    ("environment", "prints"),
    [
        ({}, True),
        ({"RANK": "1"}, True),  # left over, of no worker
        ({"LOCAL_RANK": "0", "RANK": "0"}, True),
        ({"LOCAL_RANK": "0", "RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "RANK": "0", "LOOKALIKE_REPORTS": "folder"}, False),
    ],
)
def test_one_process_prints_the_answer(monkeypatch, environment, prints):
    for name in ("TORCHELASTIC_RUN_ID", "LOCAL_RANK", "RANK", "LOOKALIKE_REPORTS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_answering() == prints


def test_every_command_is_tried():
    elsewhere = {"quickstart", "jobs", "studio", "serve"}  # tests of their own
    assert {one.__name__ for one in COMMANDS} == {*ANSWERS, *elsewhere}
