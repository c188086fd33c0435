"""`benchmarks/gpu.py`, the command for the day that a GPU can be had: all of it, on the CPU."""

import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def call(output, *arguments):
    return subprocess.run(
        [sys.executable, BENCHMARKS / "gpu.py", "--output", output, *arguments],
        capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def gone(pid):
    """True if the process ends, or is left for its parent to take note of."""
    for _ in range(200):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except FileNotFoundError:
            return True
        if "zombie" in status:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
def test_dry_run_does_every_part(tmp_path):
    done = call(tmp_path / "gpu.json", "--dry")
    found = json.loads((tmp_path / "gpu.json").read_text())
    parts = found["parts"]
    assert [p["failures"] for p in parts.values()] == [[]] * 10, json.dumps(parts, indent=1)[-9000:]
    assert done.returncode == 0, done.stdout + done.stderr
    assert {part["status"] for part in parts.values()} == {"done"}
    for name, part in parts.items():
        assert part["figures"], name
        for figure in part["figures"]:
            assert {"figure", "value", "unit", "how"} <= figure.keys()
    counts = {figure["figure"]: figure["value"] for figure in parts["tests"]["figures"]}
    assert counts["tests failed"] == 0
    assert counts["tests passed"] > 40
    assert "torch" in str(parts["machine"]["figures"])
    assert "ours bf16 / eager bf16" in done.stdout


def test_parts_without_time_are_said(tmp_path):
    done = call(tmp_path / "gpu.json", "--parts", "machine", "head", "--seconds", "2")
    assert done.returncode == 1
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert {part["status"] for part in parts.values()} == {"not run: no time is left"}


def test_a_part_that_overruns_is_ended_with_its_children_and_keeps_what_it_found(tmp_path):
    from gpu import run_limited
    from gpu_record import collected, read

    lines, pid = tmp_path / "lines.jsonl", tmp_path / "pid"
    script = (
        "import subprocess, sys, time, pathlib\n"
        f"sys.path.insert(0, {str(BENCHMARKS)!r})\n"
        "from gpu_record import Record\n"
        f"record = Record(pathlib.Path({str(lines)!r}), 'head')\n"
        "record.event('begin')\n"
        "record.figure('a', 1.5, 'ms', 'how')\n"
        "with record.attempt('b'):\n"
        "    raise ValueError('broken')\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"pathlib.Path({str(pid)!r}).write_text(str(child.pid))\n"
        "print('on the way', flush=True)\n"
        "time.sleep(600)\n"
    )

    class UntilItsChildRuns(float):
        """A limit that is reached when all is written, however slow the machine is."""

        def __gt__(self, seconds):
            return not pid.exists() or not pid.read_text()

    limit = UntilItsChildRuns(600)
    outcome = run_limited([sys.executable, "-c", script], limit, tmp_path / "log")
    assert outcome.code is None
    assert gone(pid.read_text())
    part = collected(read(lines))["head"]
    assert part["status"] == "cut off"
    assert part["figures"] == [{"figure": "a", "value": 1.5, "unit": "ms", "how": "how"}]
    assert part["failures"][0]["failure"] == "b"
    assert "ValueError: broken" in part["failures"][0]["traceback"]
    with lines.open("a") as file:
        file.write('{"part": "head", "fig')
    assert len(read(lines)) == 3


def test_only_wheels_that_are_missing_and_fit_are_taken(tmp_path):
    from gpu_environment import make_stand_ins, unpack_wheels

    names = {
        "probe_of_gpu-1.0-py3-none-any.whl": "unpacked 1.0",
        "numpy-9.9-py3-none-any.whl": "left alone",
        "other_probe-1.0-cp27-cp27m-win32.whl": "left alone: not for",
    }
    (tmp_path / "wheels").mkdir()
    for name in names:
        with zipfile.ZipFile(tmp_path / "wheels" / name, "w") as archive:
            archive.writestr(f"{name.split('-')[0]}/__init__.py", "")
    said = unpack_wheels(tmp_path / "wheels", tmp_path / "site")
    assert all(said[name].startswith(words) for name, words in names.items())
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["probe_of_gpu"]
    assert make_stand_ins(tmp_path / "site") == []  # all are installed here


def test_a_stand_in_can_be_imported_and_not_used(tmp_path, monkeypatch):
    import gpu_environment

    monkeypatch.setattr(gpu_environment, "STAND_INS", ("package_that_is_not_there",))
    assert gpu_environment.make_stand_ins(tmp_path) == ["package_that_is_not_there"]
    monkeypatch.syspath_prepend(str(tmp_path))
    import package_that_is_not_there as missing

    assert isinstance(missing.Table, type)
    with pytest.raises(ImportError, match="is not installed"):
        missing.Table()
    with pytest.raises(ImportError, match="is not installed"):
        missing.Table.from_arrays([])
