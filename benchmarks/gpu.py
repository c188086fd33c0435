"""Everything that wants a GPU, in one command of nine minutes at most.

    python benchmarks/gpu.py [--output gpu.json] [--wheels FOLDER] [--parts head step] [--dry]

On a machine with one CUDA device, Python 3.12, torch, triton and timm, and no network: runs the
suite's CUDA tests, measures head, input, training step, shared networks (FSDP2) and retrieval
beside their peers, trains the quickstart and a job of a million classes, and writes one JSON file:
facts of the machine, each figure with its unit and how it was measured, and each failure with its
traceback. A part that overruns its time is ended, and the next one begins; what was found until
then is in the file, which is written anew every few seconds. The exit code is 1 if anything failed.

What the machine lacks is brought as wheels, made once on a machine with a network:

    pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
        --abi cp312 --abi abi3 --abi none -r benchmarks/gpu_wheels.txt -d wheels

`gpu_wheels.txt` names what a machine with torch, timm, pyarrow, scipy, scikit-learn, rich and
pytest lacks (21 MB). For a machine with torch, triton and timm alone, give `gpu_wheels_bare.txt`
in its place (48 MB): without pyarrow, which most of it does without, and without the quickstart's
weights, so that that job starts at random. No wheel is taken whose package is installed.

`--dry` does all of it on the CPU with the smallest sizes, in one process.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from gpu_environment import make_stand_ins, unpack_wheels
from gpu_record import Record, collected, read

ROOT = Path(__file__).resolve().parents[1]
FORMAT = "lookalike gpu 1"
TOTAL = 540.0
"""Seconds of all parts together."""

PARTS: dict[str, tuple[float, str, str]] = {
    "machine": (30, "gpu_environment", "record_facts"),
    "ceilings": (30, "gpu_measure", "measure_ceilings"),
    "tests": (150, "gpu_tests", "run_tests"),
    "head": (110, "gpu_head", "measure_head"),
    "step": (90, "gpu_step", "measure_step"),
    "shards": (40, "gpu_shards", "measure_shards"),
    "input": (60, "gpu_input", "measure_input"),
    "retrieval": (50, "gpu_retrieval", "measure_retrieval"),
    "quickstart": (60, "gpu_jobs", "run_quickstart"),
    "million": (90, "gpu_jobs", "run_million"),
}
"""Parts in their order: seconds at most, module and function. `TOTAL`, which is less than all
seconds together, also holds."""

GRACE = 3.0
"""Seconds between the request to end and the end."""


@dataclass
class Outcome:
    """End of a process: its exit code, None where it overran, and the end of what it printed."""

    code: int | None
    seconds: float
    said: str


def work(name: str, dry: bool, record: Record) -> None:
    _, module, function = PARTS[name]
    # Not above: the machine may lack what one part needs and another does not.
    measure = getattr(import_module(module), function)
    if name == "machine":
        measure(record)
        return
    from gpu_measure import Place

    measure(Place.here(dry), record)


def work_all(names: list[str], dry: bool, lines: Path) -> None:
    """Do these parts one after the other, whatever becomes of each."""
    for name in names:
        record = Record(lines, name)
        record.event("begin")
        with record.attempt(name):
            work(name, dry, record)
        record.event("end")


def run_limited(command: list[str], seconds: float, log: Path, **options: Any) -> Outcome:
    """Run a process, and end it with all that it started when its time is over.

    Args:
        log: where its output goes.
        options: of `subprocess.Popen`; `between`, a function, is called every second meanwhile.
    """
    between = options.pop("between", lambda: None)
    began = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, **options
        )
        try:
            code = None
            while code is None and time.monotonic() - began < seconds:
                try:
                    code = process.wait(min(1.0, max(0.05, seconds - time.monotonic() + began)))
                except subprocess.TimeoutExpired:
                    between()
        finally:
            if process.poll() is None:
                _end(process)
    said = log.read_bytes()[-4000:].decode("utf-8", "replace")
    return Outcome(code, time.monotonic() - began, said)


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            break
    process.wait()


class Run:
    """All parts, and the file of what they find; `folder` is a temporary one."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.lines = folder / "lines.jsonl"
        self.began = time.monotonic()
        self.about: dict[str, Any] = {
            "format": FORMAT,
            "dry": options.dry,
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "parts_asked": options.parts,
        }
        self.outcomes: dict[str, dict[str, Any]] = {}

    def all_parts(self) -> bool:
        """Do them; whether all went well."""
        site = self.folder / "site"
        site.mkdir()
        if self.options.wheels is not None:
            self.about["wheels"] = unpack_wheels(self.options.wheels, site)
        # Behind what is installed: only what is missing is in there.
        sys.path.append(str(site))
        self.about["stand_ins"] = make_stand_ins(site)
        paths = [str(ROOT / "src"), str(ROOT / "benchmarks"), str(site)]
        environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1",
            "PYTHONFAULTHANDLER": "1",
        }  # fmt: skip
        groups = [self.options.parts] if self.options.dry else [[p] for p in self.options.parts]
        for names in groups:
            left = self.options.seconds - (time.monotonic() - self.began) - GRACE
            limit = min(left, sum(PARTS[name][0] for name in names))
            if limit < 5:
                self.outcomes[names[0]] = {"status": "not run: no time is left"}
                continue
            print(f"{', '.join(names)}: at most {limit:.0f} s", file=sys.stderr, flush=True)
            outcome = run_limited(
                [sys.executable, __file__, "--work", ",".join(names), "--lines", str(self.lines),
                 *(["--dry"] if self.options.dry else [])],
                limit, self.folder / f"{names[0]}.log", env=environment, between=self.write,
                cwd=self.folder,
            )  # fmt: skip
            self._note(names, outcome, limit)
            self.write()
        return self.write()

    def _note(self, names: list[str], outcome: Outcome, limit: float) -> None:
        done = collected(read(self.lines))
        for name in names:
            status = done.get(name, {}).get("status", "cut off")
            noted: dict[str, Any] = {"limit": round(limit, 1)}
            if status == "cut off":
                how = f"ended with {outcome.code}"
                if outcome.code is None:
                    how = f"overran its {limit:.0f} s and was ended"
                noted |= {"status": how, "log": outcome.said}
            elif status == "failed" and len(names) == 1:
                noted["log"] = outcome.said
            self.outcomes[name] = noted

    def write(self) -> bool:
        """Write the file as it stands; whether nothing failed so far."""
        parts = collected(read(self.lines))
        for name, noted in self.outcomes.items():
            parts[name] = {**parts.get(name, {}), **noted}
        well = all(part["status"] == "done" for part in parts.values())
        self.about["seconds"] = round(time.monotonic() - self.began, 1)
        aside = self.options.output.with_name(f".{self.options.output.name}.partial")
        aside.write_text(json.dumps({**self.about, "parts": parts}, indent=1) + "\n")
        aside.replace(self.options.output)
        return well

    def table(self) -> str:
        """Text for people: every figure in a line, failures at the end."""
        parts = json.loads(self.options.output.read_text())["parts"]
        lines = []
        for name, part in parts.items():
            lines.append(f"\n{name}: {part['status']}, {part.get('seconds', 0)} s")
            for line in part.get("figures", []):
                value = line["value"]
                shown = f"{value:.6g}" if isinstance(value, float) else str(value)
                span = f" ({line['lowest']} to {line['highest']})" if "lowest" in line else ""
                lines.append(f"  {line['figure'][:86]:86} {shown[:40]} {line['unit']}{span}")
        for name, part in parts.items():
            for one in part.get("not_run", []):
                lines.append(f"  {name}: not run: {one['not_run'][-70:]}: {one['reason'][:100]}")
        for name, part in parts.items():
            lines += [f"  {name}: FAILED {one['failure']}" for one in part.get("failures", [])]
        lines.append(f"\n{self.options.output}, {self.about['seconds']} s")
        return "\n".join(lines)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    parser.add_argument("--wheels", type=Path, help="folder of wheels for what is missing")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=TOTAL, help="of all parts together")
    parser.add_argument("--dry", action="store_true", help="on the CPU, with tiny sizes")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--lines", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main() -> int:
    options = parse()
    if options.work:
        work_all(options.work.split(","), options.dry, options.lines)
        return 0
    options.output = options.output.resolve()
    # A time limit around this command ends it by SIGTERM: the file is written, children are ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="lookalike-gpu-") as folder:
        run = Run(options, Path(folder))
        well = False
        try:
            well = run.all_parts()
        finally:
            run.write()
            print(run.table(), flush=True)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
