"""Workers on two machines, simulated by two processes that share no directory but the bucket."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from engine_process import TINY, command, curve, environment

from lookalike import storage

pytestmark = pytest.mark.slow

STEPS = 8
KEEP = 2

# As the command, but that it takes two seconds without a word for a machine's end.
IMPATIENT = (
    "import sys; from lookalike import cli; from lookalike.training import uploader; "
    "uploader.SILENT_SECONDS = 2; sys.exit(cli.main())"
)


class Machines:
    """Two processes, each one worker on a machine of its own."""

    def __init__(
        self,
        shapes,
        output,
        workdirs,
        parallel="model",
        resume=False,
        homes=(None, None),
        program=(),
    ):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        words = [
            "train", "--train", str(shapes / "train.txt"), "--val", str(shapes / "val.txt"),
            "--output", str(output), "--backbone", "test_resnet", *TINY, "run.device=cpu",
            f"train.max_steps={STEPS}", "optim.warmup_steps=0", f"head.parallel={parallel}",
            "loss.classification_weight=0", "train.report=false",
            "train.checkpoint_every_steps=1", "train.eval_every=1",
        ]  # fmt: skip
        programs = list(program) or [command(), command()]
        self.processes = []
        for rank, (workdir, home) in enumerate(zip(workdirs, homes, strict=True)):
            more = [] if workdir is None else [f"run.workdir={workdir}"]
            self.processes.append(
                subprocess.Popen(
                    [*programs[rank], *words, *more, *(["--resume"] if resume else [])],
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=home,
                    env=environment(
                        RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1",
                        MASTER_ADDR="127.0.0.1", MASTER_PORT=port,
                    ),
                )
            )  # fmt: skip

    def kill(self):
        for process in self.processes:
            process.kill()

    def end(self):
        """Exit codes and outputs of both."""
        try:
            told = [process.communicate(timeout=120) for process in self.processes]
        finally:
            for process in self.processes:
                if process.poll() is None:
                    process.terminate()  # torchrun has workers to end
                    process.wait(30)
        return [p.returncode for p in self.processes], [out + err for out, err in told]


def finished(*given, **more):
    codes, told = Machines(*given, **more).end()
    assert codes == [0, 0], told
    return told


@pytest.fixture(scope="module")
def expected(shapes, tmp_path_factory):
    """The curve of the same run with a directory that both machines share, by head.parallel; and
    the second machine's slice of its last checkpoint."""
    found = {}
    for parallel in ("data", "model"):
        shared = tmp_path_factory.mktemp("shared") / "x"
        finished(shapes, shared, [None, None], parallel=parallel)
        found[parallel] = curve(shared)
        assert not list(shared.glob(".worker-*"))
    last = shared / f"checkpoints/step-{STEPS:08d}"
    found["slice"] = (last / "head-metric-00001.safetensors").read_bytes()
    return found


def whole(output):
    """The checkpoints that are whole there: state.json says so, and it is true."""
    sizes = storage.sizes_below(output)
    found = []
    for name in sorted(n for n in sizes if n.endswith("/state.json")):
        state = json.loads(storage.read_bytes(f"{output}/{name}"))
        folder = name.rsplit("/", 1)[0]
        for file, size in state["files"].items():
            assert sizes.get(f"{folder}/{file}") == size, f"{folder}/{file}"
        found.append(folder.split("/")[1])
    return found


@pytest.mark.parametrize(("scheme", "parallel"), [("s3", "data"), ("oss", "model")])
def test_same_curve_as_in_a_shared_directory(bucket, shapes, expected, tmp_path, scheme, parallel):
    output, places = f"{scheme}://shop/runs/x", [tmp_path / "one", tmp_path / "two"]

    def slow(method, path, count):
        if method == "PUT" and "head-metric-00001" in path:
            time.sleep(0.5)  # the second machine lags behind, and leaves checkpoints out

    bucket.plan = slow
    told = finished(shapes, output, places, parallel=parallel)
    assert curve(places[0]) == expected[parallel]
    last = f"step-{STEPS:08d}"
    assert storage.read_bytes(f"{output}/checkpoints/latest").decode().strip() == last
    assert f"checkpoint {last} is stored at {output}" in told[0]
    assert last in whole(output)
    folders = {name.split("/")[1] for name in storage.sizes_below(output) if "/step-" in name}
    assert len(folders) <= KEEP + 1
    slices = "head-metric-00001.safetensors"
    assert (f"checkpoints/{last}/{slices}" in storage.sizes_below(output)) == (parallel == "model")
    assert not (places[0] / f"checkpoints/{last}/{slices}").exists()
    own = {path.name for path in places[1].iterdir() if path.name[0] != "."}
    assert own == {"checkpoints", "model"}
    assert not [name for name in storage.sizes_below(output) if ".worker" in name]


def test_killed_machines_resume_from_the_storage(bucket, shapes, expected, tmp_path):
    output = "s3://shop/runs/x"
    machines = Machines(shapes, output, [tmp_path / "one", tmp_path / "two"])

    def kill(method, path, count):
        step = re.search(r"step-(\d+)/head-metric-00001", path)
        if method == "PUT" and step and int(step[1]) >= 4:
            machines.kill()
            return "reset"

    bucket.plan = kill
    codes, told = machines.end()
    assert codes == [-signal.SIGKILL] * 2, told
    bucket.plan = lambda *_: None
    safe = whole(output)
    assert safe, told
    assert safe[-1] < f"step-{STEPS:08d}"
    told = finished(shapes, output, [tmp_path / "three", tmp_path / "four"], resume=True)
    assert f"resuming from {tmp_path}/three/checkpoints/{safe[-1]}" in told[0]
    assert curve(tmp_path / "three") == expected["model"]
    assert f"step-{STEPS:08d}" in whole(output)


def test_machine_without_permission_to_upload(bucket, shapes, expected, tmp_path):
    output, places = "s3://shop/runs/x", [tmp_path / "one", tmp_path / "two"]
    # What an earlier start has left of these steps, of the right names and sizes, is not what is
    # to come.
    for step in range(STEPS + 1):
        place = f"{output}/checkpoints/step-{step:08d}/head-metric-00001.safetensors"
        storage.write_bytes(place, expected["slice"])
    old = storage.sizes_below(output)

    def refuse(method, path, count):
        if method in ("PUT", "POST") and "head-metric-00001" in path:
            return "expired"

    bucket.plan = refuse
    codes, told = Machines(shapes, output, places).end()
    assert codes == [2, 2], told
    assert whole(output) == []
    assert not {"checkpoints/latest", "checkpoints/best"} & set(storage.sizes_below(output))
    assert all("is stored" not in text for text in told)
    for text, words in zip(told, (["worker 1", "two"], ["two"]), strict=True):
        [error] = [line for line in text.splitlines() if line.startswith("error: ")]
        assert "refuses the credentials" in error
        assert "the upload is not complete, and nothing is lost" in error
        assert all(word in error for word in words), error
    assert str(places[0]) in told[0]
    assert set(old) <= set(storage.sizes_below(output))
    # Once the storage is reachable again, what lies on the two machines' disks is brought together.
    bucket.plan = lambda *_: None
    told = finished(shapes, output, places, resume=True)
    assert f"uploading step-{STEPS:08d}, which is not complete there yet" in told[0]
    assert f"resuming from {places[0]}/checkpoints/step-{STEPS:08d}" in told[0]
    assert curve(places[0]) == expected["model"]
    assert f"step-{STEPS:08d}" in whole(output)
    # And one machine alone goes on with what two have written.
    alone = Path(tmp_path / "alone")
    done = subprocess.run(
        command("train", "--resume", "--output", output, f"run.workdir={alone}",
                f"train.max_steps={STEPS + 1}"),
        env=environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [r for r in curve(alone) if ("step", STEPS + 1) in r]


def test_torchrun_with_two_workers_on_each(bucket, shapes, expected, tmp_path):
    output, places = "oss://shop/runs/x", [tmp_path / "one", tmp_path / "two"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launchers = [
        [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={rank}",
         "--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={port}",
         "-m", "lookalike"]
        for rank in range(2)
    ]  # fmt: skip
    finished(shapes, output, places, program=launchers)
    last = f"step-{STEPS:08d}"
    assert last in whole(output)
    sizes = storage.sizes_below(f"{output}/checkpoints/{last}")
    assert {f"head-metric-{rank:05d}.safetensors" for rank in range(4)} <= set(sizes)
    here = {path.name for path in (places[1] / f"checkpoints/{last}").iterdir()}
    assert here == {"state.json", *(f"head-metric-{rank:05d}.safetensors" for rank in (2, 3))}
    found, wanted = (
        [dict(record)["loss"] for record in records if "loss" in dict(record)]
        for records in (curve(places[0]), expected["model"])
    )
    assert found == pytest.approx(wanted, rel=1e-3)


def test_machine_killed_during_an_upload(bucket, shapes, tmp_path):
    output, places = "oss://shop/runs/x", [tmp_path / "one", tmp_path / "two"]
    machines = Machines(shapes, output, places, program=[[sys.executable, "-c", IMPATIENT]] * 2)

    def kill(method, path, count):
        step = re.search(r"step-(\d+)/head-metric-00001", path)
        if method == "PUT" and step and int(step[1]) >= 4:
            machines.processes[1].kill()
            return "reset"

    bucket.plan = kill
    codes, told = machines.end()
    assert codes == [2, -signal.SIGKILL], told
    [error] = [line for line in told[0].splitlines() if line.startswith("error: ")]
    assert "no heartbeat for 2 s" in error
    assert f"{places[1]} of " in error
    assert str(places[0]) in error
    safe = whole(output)
    assert storage.read_bytes(f"{output}/checkpoints/latest").decode().strip() in safe


def test_machines_that_share_the_working_directory(bucket, shapes, expected, tmp_path):
    output = "oss://shop/runs/x"
    finished(shapes, output, [tmp_path / "one", tmp_path / "one"])
    assert curve(tmp_path / "one") == expected["model"]
    assert f"step-{STEPS:08d}" in whole(output)


def test_local_output_that_is_not_shared(shapes, tmp_path):
    """The same path on each machine, but not the same directory."""
    homes = [tmp_path / "one", tmp_path / "two"]
    for home in homes:
        home.mkdir()
    codes, told = Machines(shapes, "runs/x", [None, None], homes=homes).end()
    assert codes == [2, 2], told
    for text in told:
        assert text.startswith("error: run.output=runs/x: worker 1 (")
        assert "does not see what worker 0 (" in text
        assert text.count("\n") == 1
    assert not [path for home in homes for path in home.rglob("*") if path.is_file()]
