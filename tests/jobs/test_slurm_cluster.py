"""A real Slurm of two nodes on this machine: the same curve, also when stopped and resumed."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lookalike.commands.submit import submit
from lookalike.jobs.engine import JobState, follow
from lookalike.jobs.slurm import Slurm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("slurmctld") is None or shutil.which("slurmd") is None or os.geteuid() != 0,
        reason="needs Debian's slurmctld and slurmd, and root",
    ),
]

_CONF = """ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "state").mkdir()
    conf = folder / "slurm.conf"
    conf.write_text(_CONF.format(host=socket.gethostname(), folder=folder, ports=_free_ports(3)))
    commands = [
        ["slurmctld", "-D", "-i", "-f", str(conf)],
        *(["slurmd", "-D", "-N", node, "-f", str(conf)] for node in ("n1", "n2")),
    ]
    with pytest.MonkeyPatch.context() as patch, (folder / "daemons.log").open("w") as log:
        patch.setenv("SLURM_CONF", str(conf))
        patch.setenv("OMP_NUM_THREADS", "1")
        source = Path(__file__).parents[2] / "src"
        patch.setenv("PYTHONPATH", str(source))
        daemons = [subprocess.Popen(each, stdout=log, stderr=log) for each in commands]
        try:
            _wait_until(lambda: _words("sinfo", "-h", "-o", "%T %D") == "idle 2", 60)
            yield
        finally:
            for daemon in reversed(daemons):
                daemon.terminate()
            for daemon in daemons:
                daemon.wait(30)


def _words(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _wait_until(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.3)


def _config(folder: Path, shapes: Path) -> str:
    path = folder / "tiny.yaml"
    path.write_text(
        f"data: {{train: {shapes}/train.txt, threads: 1}}\n"
        "model: {backbone: test_resnet, pretrained: false, image_size: 32, embedding_dim: 16}\n"
        "train: {batch_size: 8, max_steps: 60, epochs: 100, report: false, recipe: component,\n"
        "        log_every: 1, checkpoint_every_steps: 20}\n"
        f"run: {{output: {folder}/run, device: cpu}}\n"
    )
    return str(path)


def _losses(folder: Path) -> dict[int, float]:
    lines = (folder / "run/metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return {each["step"]: each["loss"] for each in found if "loss" in each}


def test_curve_through_slurm(
    cluster: None, tmp_path: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, stopped = (tmp_path / name for name in ("here", "there", "stopped"))
    for folder in (here, there, stopped):
        folder.mkdir()
    command = [sys.executable, "-m", "lookalike", "train", _config(here, shapes), "--workers", "2"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)

    monkeypatch.chdir(there)
    resources = {"nodes": 2, "workers": 1, "python": sys.executable, "grace": "20s"}
    log: list[str] = []
    submit(_config(there, shapes), on="slurm", wait=True, write=log.append, pause=0.5, **resources)
    assert any("4 on each of 2 workers" in line for line in log)
    expected = _losses(here)
    assert len(expected) == 60
    assert _losses(there) == expected

    # The signal before the time limit, sent in place of Slurm's controller: saved and queued.
    monkeypatch.chdir(stopped)
    job = submit(_config(stopped, shapes), on="slurm", **resources)
    slurm = Slurm()
    metrics = stopped / "run/metrics.jsonl"
    _wait_until(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 5, 90)
    subprocess.run(["scancel", "--batch", "--signal=USR1", job], check=True)
    _wait_until(lambda: slurm.status(job).state is JobState.QUEUED, 60)
    _wait_until(
        lambda: subprocess.run(
            ["scontrol", "update", f"JobId={job}", "StartTime=now"], capture_output=True
        ).returncode == 0,
        60,
    )  # fmt: skip
    assert follow(slurm, job, log.append, pause=0.5).state is JobState.SUCCEEDED
    assert any("stopped by SIGTERM at step" in line for line in log)
    assert _losses(stopped) == expected
