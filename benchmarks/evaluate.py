"""Measuring retrieval: ours against AccuracyCalculator with faiss and against OML, in one run.

    python benchmarks/evaluate.py --peers path/to/another/python [--sizes sop] [--rounds 3]

The contenders take turns on the same saved embeddings, each in a process of its own. Outputs are
compared before any time is printed. `--peers` is the Python of an environment that has
pytorch-metric-learning, faiss-cpu and open-metric-learning (which needs NumPy below 2); what it
lacks is taken from this environment, or said. Time is from embeddings in memory to figures; memory
is the peak of the process over what it held before, so embeddings and imports are not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from requirements import INSTALL
from turns import ratios, shown

CONTENDER = Path(__file__).with_name("evaluate_contender.py")
PEERS = {"pytorch-metric-learning": "pytorch_metric_learning, faiss", "open-metric-learning": "oml"}
# open-metric-learning needs NumPy below 2, and so an environment of its own.
FIXES = {
    "pytorch-metric-learning": INSTALL,
    "open-metric-learning": "python3 -m venv peers && peers/bin/pip install open-metric-learning "
    "pytorch-metric-learning faiss-cpu, then --peers peers/bin/python",
}
OURS = ["lookalike", "bf16 products alone"]


@dataclass(frozen=True)
class Setting:
    """A set to measure.

    `noise` makes Recall@1 what it is for trained models.
    """

    images: int
    classes: int
    queries: int
    noise: float = 1.45
    dim: int = 512


SETTINGS = {
    # As many images and classes as the test set of Stanford Online Products.
    "sop": Setting(60_502, 11_316, 60_502),
    "200k": Setting(200_000, 37_400, 200_000),
    "1m": Setting(1_000_000, 187_000, 10_000),
}


def write(setting: Setting, folder: Path) -> tuple[Path, Path]:
    """Embeddings like those of a trained model: centres and noise in a decaying spectrum.

    Classes have 2 to 12 images, and some images are more typical than others.
    """
    generator = np.random.default_rng(0)
    sizes = generator.integers(2, 9, setting.classes)
    while (short := setting.images - int(sizes.sum())) != 0:
        some = generator.permutation(setting.classes)[: abs(short)]
        sizes[some] = np.clip(sizes[some] + np.sign(short), 2, 12)
    labels = np.repeat(np.arange(setting.classes), sizes)
    generator.shuffle(labels)
    spectrum = (1 / (1 + np.arange(setting.dim) / 64)).astype(np.float32)
    centres = generator.standard_normal((setting.classes, setting.dim), dtype=np.float32)
    x = np.lib.format.open_memmap(
        folder / "x.npy", mode="w+", dtype=np.float32, shape=(setting.images, setting.dim)
    )
    for begin in range(0, setting.images, 50_000):
        some = labels[begin : begin + 50_000]
        noise = generator.standard_normal((len(some), setting.dim), dtype=np.float32)
        spread = np.exp(0.35 * generator.standard_normal((len(some), 1), dtype=np.float32))
        made = (centres[some] + setting.noise * spread * noise) * spectrum
        x[begin : begin + 50_000] = made / np.linalg.norm(made, axis=1, keepdims=True)
    x.flush()
    np.save(folder / "labels.npy", labels)
    return folder / "x.npy", folder / "labels.npy"


def has(python: str, modules: str) -> bool:
    return subprocess.run([python, "-c", f"import {modules}"], capture_output=True).returncode == 0


def run(python: str, name: str, files: tuple[Path, Path], args: argparse.Namespace) -> dict:
    """Scores, time and memory of one contender."""
    command = [python, str(CONTENDER), name, *map(str, files), f"--threads={args.threads}"]
    if args.queries:
        command.append(f"--queries={args.queries}")
    done = subprocess.run(command, capture_output=True, text=True, timeout=args.timeout)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"killed: {done.returncode}"])[-1])
    return json.loads(done.stdout.splitlines()[-1])


def agree(ours: dict[str, float], theirs: dict[str, float]) -> float:
    return max(abs(ours[name] - value) for name, value in theirs.items())


def compare(name: str, args: argparse.Namespace, folder: Path) -> None:
    setting = SETTINGS[name]
    args.queries = min(args.limit or setting.queries, setting.queries)
    print(
        f"\n{name}: {setting.images:,} x {setting.dim}, {setting.classes:,} classes,"
        f" {args.queries:,} queries, {args.threads} threads",
        flush=True,
    )
    files = write(setting, folder)
    pythons = dict.fromkeys([*OURS, *args.also], sys.executable)
    for peer, modules in PEERS.items():
        if peer not in args.contenders:
            continue
        python = next((p for p in (args.peers, sys.executable) if p and has(p, modules)), None)
        if python is not None:
            pythons[peer] = python
        else:
            print(f"  {peer}: not run: {modules} cannot be imported: {FIXES[peer]}")
    results: dict[str, list[dict]] = {}
    for _ in range(args.rounds):
        for contender, python in list(pythons.items()):
            try:
                results.setdefault(contender, []).append(run(python, contender, files, args))
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                if contender in OURS:
                    raise
                print(f"  {contender}: not run: {str(error)[:160]}", flush=True)
                del pythons[contender]
                results.pop(contender, None)
    found = [one["values"] for one in results["lookalike"]]
    assert all(one == found[0] for one in found)
    print("  " + ", ".join(f"{key} {value:.6g}" for key, value in found[0].items()))
    for contender, runs in results.items():
        if contender in PEERS:
            off = agree(found[0], runs[0]["values"])
            print(f"  {contender}: {', '.join(runs[0]['values'])} differ by at most {off:.1e}")
    times = {contender: [one["seconds"] for one in runs] for contender, runs in results.items()}
    for contender, runs in results.items():
        line = f"  {contender:26} {statistics.median(times[contender]):8.2f} s"
        line += f" | processor {statistics.median(r['processor_seconds'] for r in runs):8.2f} s"
        line += f" | memory {max(r['extra_bytes'] for r in runs) / 1e6:6.0f} MB"
        if contender != "lookalike":
            slower = ratios(times[contender], times["lookalike"])
            line += f" | times lookalike's time: {shown(slower)}"
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers", help="Python of the environment of the peers")
    parser.add_argument("--sizes", nargs="+", choices=SETTINGS, default=["sop"])
    parser.add_argument("--contenders", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--full", action="store_true", help="full ranking of ours, too")
    parser.add_argument("--queries", dest="limit", type=int, help="only so many queries for all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--timeout", type=float, default=3600)
    args = parser.parse_args()
    args.also = ["lookalike, full ranking"] if args.full else []
    torch.set_num_threads(args.threads)
    for name in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            compare(name, args, Path(folder))


if __name__ == "__main__":
    main()
