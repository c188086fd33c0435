"""Figures that a refactoring must not change: seeded curves, scores and exported bytes.

    python tools/prove_unchanged.py before.json     # in the tree before
    python tools/prove_unchanged.py after.json before.json

Trains small models on the bundled emoji as a user does, each command a process of its own, and
writes every number of metrics.jsonl but the clocks, all scores of `lookalike evaluate --json` and
the digests of an exported ONNX model and of the embeddings. With a second file, compares, names
what differs and ends with exit code 1.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import onnx

ROOT = Path(__file__).resolve().parents[1]
CLOCKS = {"images_per_second", "waiting", "seconds", "data_wait"}
COMMON = [
    "model.backbone=test_resnet", "model.pretrained=false", "model.image_size=64",
    "model.embedding_dim=32", "train.batch_size=16", "train.log_every=1", "train.epochs=2",
    "data.threads=2", "train.seed=3",
]  # fmt: skip
LISTS = ["--train", "train-part.txt", "--val", "test-part.txt"]
RUNS: dict[str, list[str]] = {
    "default": [],
    "arcface, adamw, pk": ["loss.name=arcface", "optim.name=adamw", "data.sampler=pk"],
    "curricularface, augmented": [
        "loss.name=curricularface",
        "data.augment=[rand_augment, {random_erasing: {p: 0.5}}]",
        "data.color_jitter=0.3", "data.grayscale=0.1", "train.ema=0.9",
    ],
    "adaface, sampled, accumulated": [
        "loss.name=adaface", "head.sample_rate=0.5", "train.accumulate=2",
    ],
    "two workers": ["--workers", "2", "head.parallel=model", "loss.name=cosface"],
    "resumed": [],
}  # fmt: skip


def lookalike(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "lookalike", *arguments], cwd=folder, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate()
    if process.returncode:
        sys.exit(f"{' '.join(map(str, process.args))}\nended with {process.returncode}:\n{output}")


def curve(run: Path) -> list[dict]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in CLOCKS} for line in lines]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def graph_digest(path: Path) -> str:
    """Of nodes and weights, without the date and the names of modules that metadata hold."""
    graph = onnx.load(path).graph
    del graph.metadata_props[:]
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    return hashlib.sha256(graph.SerializeToString()).hexdigest()


def figures(folder: Path) -> dict[str, object]:
    with tarfile.open(ROOT / "src/lookalike/quickstart_data/emoji.tar") as bundle:
        bundle.extractall(folder, filter="data")
    for name, count in (("train", 240), ("test", 160)):
        lines = (folder / f"{name}.txt").read_text("utf-8").splitlines(keepends=True)
        (folder / f"{name}-part.txt").write_text("".join(lines[:count]), "utf-8")
    found: dict[str, object] = {}
    for name, settings in RUNS.items():
        place = f"runs/{name.partition(',')[0].replace(' ', '-')}"
        run = folder / place
        command = ["train", *LISTS, "--output", place, *COMMON, *settings]
        process = lookalike(folder, *command)
        if name == "resumed":
            metrics = run / "metrics.jsonl"
            while process.poll() is None and not (
                metrics.exists() and len(metrics.read_text().splitlines()) > 5
            ):
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            process.communicate()
            process = lookalike(folder, *command, "--resume")
        finish(process)
        found[name] = curve(run)
    run = "runs/default"
    data = ["--data", "test-part.txt"]
    finish(lookalike(folder, "evaluate", run, *data, "--full", "--output", "scores"))
    scores = json.loads((folder / "scores/evaluation.json").read_text())
    del scores["definitions"]  # texts, not figures
    found["scores"] = scores
    finish(lookalike(folder, "embed", run, "test-part.txt", "-o", "vectors.npy"))
    found["embeddings"] = digest(folder / "vectors.npy")
    finish(lookalike(folder, "export", run, "--format", "safetensors", "-o", "exported", *data))
    found["exported"] = digest(folder / "exported/model.safetensors")
    finish(lookalike(folder, "export", run, "--format", "onnx", "-o", "exported.onnx", *data))
    found["onnx graph"] = graph_digest(folder / "exported.onnx")
    return found


def main() -> None:
    output, *before = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        found = figures(Path(folder))
    Path(output).write_text(json.dumps(found, indent=1))
    if before:
        old = json.loads(Path(before[0]).read_text())
        old["scores"].pop("definitions", None)
        wrong = [name for name in old if found.get(name) != old[name]]
        print("\n".join(f"DIFFERS: {name}" for name in wrong) or f"{len(old)} parts: identical")
        sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
