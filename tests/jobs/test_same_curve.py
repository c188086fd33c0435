"""The same configuration here and through each engine: one curve."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import slurm_cluster
import yaml
from slurm_cluster import needs_slurm, wait_until
from tiny_training import losses, write_config

import lookalike
from lookalike.cli.submitted_words import submit
from lookalike.jobs.engine import JobState, follow
from lookalike.jobs.slurm import Slurm

pytestmark = pytest.mark.slow

SOURCE = str(Path(__file__).parents[2] / "src")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> dict[int, float]:
    """The curve of one worker here."""
    folder = tmp_path_factory.mktemp("curve") / "here"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder.parent / "cache"))
        lookalike.train(lookalike.Config.load(write_config(folder, shapes)))
    found = losses(folder)
    assert len(found) == 60
    return found


def test_command_of_dlc(expected: dict[int, float], tmp_path: Path, shapes: Path) -> None:
    request = submit(
        write_config(tmp_path, shapes), on="dlc", dry_run=True, image="lookalike:0.1",
        machine="ecs.gn7i-c8g1.2xlarge", python=sys.executable, workers=1,
        mounts=[f"d-a:{tmp_path}", f"d-b:{shapes}"],
    )  # fmt: skip
    command = json.loads(request)["UserCommand"]
    subprocess.run(
        ["bash", "-c", command], check=True, timeout=120,
        env={**os.environ, "PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert losses(tmp_path) == expected


@pytest.mark.skipif(find_spec("kfp") is None, reason="needs kfp")
def test_component_in_a_pipeline(expected: dict[int, float], tmp_path: Path, shapes: Path) -> None:
    """Connected lists win over the setting, which names a list that is not there."""
    lists = [f"{shapes}/train.txt", f"{shapes}/val.txt"]
    script = Path(__file__).with_name("pipeline_script.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path, write_config(tmp_path, shapes), *lists],
        env={**os.environ, "PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "data.train is connected, and wins over the setting" in done.stdout
    assert losses(tmp_path) == expected
    component = yaml.safe_load((tmp_path / "pipeline.yaml").read_text())["components"]
    inputs = component["comp-lookalike-train"]["inputDefinitions"]["artifacts"]
    assert {name: each["isOptional"] for name, each in inputs.items()} == {
        "train": True, "val": True,
    }  # fmt: skip
    [model] = (tmp_path / "root").rglob("lookalike-train/model")
    assert lookalike.load(model).embed(shapes / "images/0-0.jpg").shape == (16,)
    [told] = (tmp_path / "root").rglob("lookalike-train/executor_output.json")
    artifacts = json.loads(told.read_text())["artifacts"]
    assert 0 <= artifacts["metrics"]["artifacts"][0]["metadata"]["recall_at_1"] <= 1
    assert artifacts["model"]["artifacts"][0]["metadata"]["run"] == f"{tmp_path}/run"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("slurm")
    with slurm_cluster.running(folder):
        yield folder


@needs_slurm
def test_slurm_job_that_is_stopped_and_resumed(
    cluster: Path, expected: dict[int, float], tmp_path: Path, shapes: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    job = submit(write_config(tmp_path, shapes), on="slurm", python=sys.executable, grace="20s")
    slurm = Slurm()
    metrics = tmp_path / "run/metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.read_text().count("\n") > 5, 90)
    # The signal before the time limit, in place of Slurm's controller: saved and queued.
    subprocess.run(["scancel", "--batch", "--signal=USR1", job], check=True)
    wait_until(lambda: slurm.status(job).state is JobState.QUEUED, 60)
    # It would begin again after two minutes. Sooner, its node must be rid of the first start and
    # refuses a credential of the same second.
    wait_until(lambda: not list(cluster.glob(f"spool-*/job{int(job):05}")), 60)
    time.sleep(2)
    wait_until(
        lambda: subprocess.run(
            ["scontrol", "update", f"JobId={job}", "StartTime=now"], capture_output=True
        ).returncode == 0,
        60,
    )  # fmt: skip
    assert follow(slurm, job, print, pause=0.5).state is JobState.SUCCEEDED
    assert "stopped by SIGTERM at step" in capsys.readouterr().out
    assert losses(tmp_path) == expected


@needs_slurm
def test_two_nodes_of_slurm(
    cluster: Path, tmp_path: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    here, there = tmp_path / "here", tmp_path / "there"
    command = [sys.executable, "-m", "lookalike", "train", write_config(here, shapes)]
    config = write_config(there, shapes)
    monkeypatch.chdir(there)
    job = submit(config, on="slurm", nodes=2, workers=1, python=sys.executable, grace="20s")
    subprocess.run([*command, "--workers", "2"], check=True, capture_output=True, timeout=120)
    follow(Slurm(), job, print, pause=0.5)
    assert "4 on each of 2 workers" in capsys.readouterr().out
    assert losses(there) == losses(here)
