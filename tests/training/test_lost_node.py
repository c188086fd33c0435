"""Two machines under torchrun, one of which is lost for good in the middle of an epoch."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from engine_process import TINY, curve, environment, records

import lookalike

STEPS = 60
SETTINGS = [
    "train.checkpoint_every_steps=4", "train.keep_checkpoints=99",
    "loss.classification_weight=0", "optim.warmup_steps=0",
]  # fmt: skip


def node(number: int, port: int, words: list[str], folder: Path) -> subprocess.Popen:
    """torchrun with one worker, as on each machine of a cluster."""
    patience = "last_call_timeout=10,keep_alive_interval=1,keep_alive_max_attempt=3"
    launcher = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=1:2", "--nproc-per-node=1",
        "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--local-addr=127.0.0.1",
        f"--rdzv-conf=is_host={int(number == 0)},{patience}", "--max-restarts=2",
        "-m", "lookalike",
    ]  # fmt: skip
    with (folder / f"{number}.txt").open("w") as told:
        return subprocess.Popen(
            [*launcher, *words],
            cwd=folder,
            env=environment(TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1"),
            stdout=told,
            stderr=told,
        )


def kill_all(agent: subprocess.Popen) -> None:
    """SIGKILL to torchrun and its workers, as if the machine had lost its power."""
    tasks = Path(f"/proc/{agent.pid}/task")
    workers = [
        int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()
    ]
    agent.kill()
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    agent.wait()


@pytest.mark.slow
def test_those_that_remain_go_on_from_the_last_checkpoint(shapes, tmp_path):
    words = [
        "train", "--train", str(shapes / "train.txt"), "--output", str(tmp_path / "run"),
        "--backbone", "test_resnet", *TINY, *SETTINGS, f"train.max_steps={STEPS}",
        "run.device=cpu", "train.report=false", "head.parallel=model",
    ]  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = [node(number, port, [*words, "--resume"], tmp_path) for number in range(2)]
    try:
        deadline = time.monotonic() + 300
        while not (tmp_path / "run/checkpoints/step-00000008").exists():
            assert time.monotonic() < deadline, (tmp_path / "0.txt").read_text()
            time.sleep(0.02)
        kill_all(nodes[1])
        code = nodes[0].wait(300)
    finally:
        for each in nodes:
            if each.poll() is None:
                kill_all(each)
    told = (tmp_path / "0.txt").read_text()
    assert code == 0, told
    log = (tmp_path / "run/log.txt").read_text()
    assert "batch: 8 images, 4 on each of 2 workers" in log
    again = log.partition("resuming from ")[2].partition("\n")[0]
    assert "batch: 8 images;" in log
    resumed = int(again.split("step-")[1])
    assert 8 <= resumed < STEPS

    # Undisturbed from that checkpoint on, on as many workers: to the bit. Until then two workers
    # trained, whose rounding is another one.
    peace = tmp_path / "peace"
    shutil.copytree(tmp_path / "run", peace)
    for later in (peace / "checkpoints").glob("step-*"):
        if int(later.name.split("-")[1]) > resumed:
            shutil.rmtree(later)
    config = lookalike.Config.load(peace / "config.yaml")
    lookalike.train(config.with_settings({"output": str(peace)}), resume=True)
    assert curve(tmp_path / "run") == curve(peace)
    assert [record["step"] for record in records(peace)] == list(range(1, STEPS + 1))
