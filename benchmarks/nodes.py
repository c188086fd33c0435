"""A training on two machines, one of which is lost, stands still, is cut off or returns.

    sudo python benchmarks/nodes.py [killed slow stopped cut] [--timeout 60]

The machines are two network namespaces of this one, joined by a bridge (root is needed to make
them), each with torchrun and one worker; they share the output directory. In a scenario the second
machine is

    killed    killed (SIGKILL to torchrun and worker), and started again when the first goes on
    slow      stopped (SIGSTOP to the worker) for a third of run.timeout
    stopped   stopped for good; its torchrun goes on
    cut       cut off (its network interface goes down), for good

`next step` is the time from there to the first new training step, `repeated` the steps that were
done before and are done again, `workers` how many train in the end. The curve of a run that loses a
machine is compared in tests/training/test_lost_node.py.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

BRIDGE, NETWORK, PORT = "look-br", "10.99.71", 29471
STEPS, EVERY = 20_000, 10
REACHED = 60
"""Step at which the machine is lost."""

PATIENCE = "last_call_timeout=10,keep_alive_interval=2,keep_alive_max_attempt=3"
RESUMED = "resuming from"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Machine:
    """A network namespace with torchrun and one worker."""

    def __init__(self, number: int, arguments: list[str], folder: Path) -> None:
        self.number, self.arguments, self.folder = number, arguments, folder
        self.name, self.address = f"look{number}", f"{NETWORK}.{number + 1}"
        self.process: subprocess.Popen | None = None

    def connect(self) -> None:
        ip("netns", "add", self.name)
        ip("link", "add", f"{self.name}v", "type", "veth", "peer", "eth0", "netns", self.name)
        ip("link", "set", f"{self.name}v", "master", BRIDGE, "up")
        for words in (
            ["addr", "add", f"{self.address}/24", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
            ["link", "set", "lo", "up"],
        ):
            ip("-n", self.name, *words)

    def start(self) -> None:
        launcher = [
            "ip", "netns", "exec", self.name, sys.executable, "-m", "torch.distributed.run",
            "--nnodes=1:2", "--nproc-per-node=1", "--rdzv-backend=c10d",
            f"--rdzv-endpoint={NETWORK}.1:{PORT}", f"--local-addr={self.address}",
            f"--rdzv-conf=is_host={int(self.number == 0)},{PATIENCE}", "--max-restarts=5",
            "-m", "lookalike", *self.arguments,
        ]  # fmt: skip
        with (self.folder / f"{self.name}.txt").open("a") as told:
            self.process = subprocess.Popen(
                launcher, stdout=told, stderr=told, cwd=self.folder,
                env={
                    **os.environ, "GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1",
                    # Else a machine that returns waits in vain for the address of the first.
                    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
                },
            )  # fmt: skip

    def processes(self) -> list[int]:
        """Process ids of torchrun and its workers, torchrun first; none if it has ended."""
        if self.process is None or self.process.poll() is not None:
            return []
        found = [self.process.pid]
        for pid in found:  # it grows
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    found += map(int, task.read_text().split())
        return found

    def signal(self, number: int, *, workers_only: bool = False) -> None:
        """Send a signal to all processes of this machine, or to its workers."""
        for pid in self.processes()[1 if workers_only else 0 :]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def end(self) -> None:
        """Kill what is left, and remove the namespace."""
        self.signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()
        # The namespace itself goes later, when the kernel has time.
        for words in (["link", "del", f"{self.name}v"], ["netns", "del", self.name]):
            subprocess.run(["ip", *words], capture_output=True, check=False)


class Training:
    def __init__(self, run: Path) -> None:
        self.run = run

    def losses(self) -> dict[int, float]:
        """Loss by step."""
        file, found = self.run / "metrics.jsonl", {}
        for line in file.read_text().splitlines() if file.exists() else []:
            with contextlib.suppress(ValueError):  # torn
                record = json.loads(line)
                if "loss" in record:
                    found[record["step"]] = record["loss"]
        return found

    def step(self) -> int:
        return max(self.losses(), default=0)

    def log(self) -> str:
        file = self.run / "log.txt"
        return file.read_text() if file.exists() else ""

    def resumptions(self) -> list[int]:
        """Steps from which it went on."""
        return [int(step) for step in re.findall(RESUMED + r".*step-(\d+)", self.log())]

    def wait(self, what: str, reached: Callable[[], bool], seconds: float) -> float:
        """Wait until something is reached; the seconds that it took."""
        began = time.monotonic()
        while not reached():
            if time.monotonic() - began > seconds:
                told = [file.read_text()[-3000:] for file in self.run.parent.glob("*.txt")]
                text = "\n".join([*told, self.log()[-2000:]])
                raise SystemExit(f"{what}: not within {seconds:.0f} s\n{text}")
            time.sleep(0.2)
        return time.monotonic() - began


def pictures(folder: Path) -> Path:
    lines = []
    for number in range(48):
        tone = (number % 8) * 30
        Image.new("RGB", (40, 40), (tone, 255 - tone, number)).save(folder / f"{number}.png")
        lines.append(f"{number}.png {number % 8}\n")
    (folder / "list.txt").write_text("".join(lines))
    return folder / "list.txt"


def words(images: Path, output: Path, timeout: float) -> list[str]:
    return [
        "train", "--train", str(images), "--output", str(output), "--backbone", "test_resnet",
        "--resume", "model.pretrained=false", "model.image_size=32", "model.embedding_dim=16",
        "train.batch_size=8", "train.log_every=1", "data.threads=1", "run.device=cpu",
        "train.report=false", "loss.classification_weight=0", "head.parallel=model",
        f"train.max_steps={STEPS}", f"train.checkpoint_every_steps={EVERY}",
        f"run.timeout={timeout:g}s", "optim.schedule=constant", "train.epochs=20000",
    ]  # fmt: skip


def play(scenario: str, images: Path, folder: Path, timeout: float) -> str:
    folder.mkdir()
    training = Training(folder / "run")
    machines = [Machine(n, words(images, training.run, timeout), folder) for n in range(2)]
    second = machines[1]
    subprocess.run(["ip", "link", "add", BRIDGE, "type", "bridge"], check=True)
    try:
        ip("link", "set", BRIDGE, "up")
        for machine in machines:
            machine.connect()
            machine.start()
        training.wait(scenario, lambda: training.step() >= REACHED, 240)
        before, resumed = training.step(), len(training.resumptions())
        began = time.monotonic()
        if scenario == "killed":
            second.signal(signal.SIGKILL)
        elif scenario in ("slow", "stopped"):
            second.signal(signal.SIGSTOP, workers_only=True)
            if scenario == "slow":
                time.sleep(timeout / 3)
                second.signal(signal.SIGCONT, workers_only=True)
        else:
            ip("-n", second.name, "link", "set", "eth0", "down")

        def goes_on(count: int) -> bool:
            found = training.resumptions()
            return len(found) > count and training.step() > found[-1]

        if scenario == "slow":
            training.wait(scenario, lambda: training.step() > before + 1, 240)
            seconds, repeated = time.monotonic() - began, 0
        else:
            seconds = training.wait(scenario, lambda: goes_on(resumed), 60 + 8 * timeout)
            repeated = before - training.resumptions()[resumed]
        more = ""
        if scenario == "killed":
            count = len(training.resumptions())
            second.start()
            back = training.wait(scenario, lambda: goes_on(count), 240)
            more = f", again on 2 after {back:.1f} s"
    finally:
        for machine in machines:
            machine.end()
        subprocess.run(["ip", "link", "del", BRIDGE], check=False)
    batch = re.findall(r"batch: .*", training.log())[-1]
    workers = 2 if "on each of 2 workers" in batch else 1
    return f"next step {seconds:5.1f} s, repeated {repeated:2}, workers {workers}{more}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = ["killed", "slow", "stopped", "cut"]
    parser.add_argument("scenarios", nargs="*", default=names, metavar="SCENARIO")
    parser.add_argument("--timeout", type=float, default=60, help="run.timeout in seconds")
    options = parser.parse_args()
    if unknown := set(options.scenarios) - set(names):
        parser.error(f"no scenario {min(unknown)}; there are {', '.join(names)}")
    if os.geteuid() != 0:
        parser.error("network namespaces need root")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        images = pictures(folder)
        for scenario in options.scenarios:
            text = play(scenario, images, folder / scenario, options.timeout)
            print(f"{scenario:8} {text}", flush=True)


if __name__ == "__main__":
    main()
