"""One trial of `quality.py`, in a process of its own: train, embed the test list, write scores.

`quality.py` starts it as `python benchmarks/quality_trial.py REQUEST.json`. Vectors of every method
are made by the same loader and measured by the same code.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import lookalike
from lookalike import Config, LookalikeError
from lookalike.data.catalog import Catalog, open_catalog
from lookalike.data.loading.bad_images import BadImages
from lookalike.data.loading.image_source import Source
from lookalike.data.loading.preprocess import Preprocess
from lookalike.data.loading.sequential import EvalLoader
from lookalike.errors import TrainingError
from lookalike.metrics.protocol import relevant_of
from lookalike.metrics.scores import measure_queries
from lookalike.model.embedder import Embedder
from lookalike.run import Run
from quality_oml import OML
from quality_peers import Diverged, published, train_peer

HERE = Path(__file__).parent
METRICS = ("recall_at_1", "map_at_r")


@dataclass(frozen=True)
class Request:
    """Request of one trial.

    Attributes:
        method: ours, frozen, or a key of `quality_peers.PUBLISHED` or `quality_oml.OML`.
        settings: that differ from the method's own, by name.
        weights: a file, or None to begin at random.
        epochs: length; a part of an epoch too.
        batch_size: of the peers; ours chooses its own.
        max_steps: for tests: end after so many.
        oml: the Python with open-metric-learning.
        folder: for the run of ours, or what OML needs.
        queries: the .npz to write, (Q,) of each metric, and the class of each query.
        result: the .json to write.
    """

    method: str
    settings: dict[str, Any]
    train: str
    test: str
    backbone: str
    weights: str | None
    image_size: int
    epochs: float
    batch_size: int
    seed: int
    threads: int
    max_steps: int | None
    oml: str | None
    folder: str
    queries: str
    result: str


@dataclass(frozen=True)
class Outcome:
    """Result of a training.

    Attributes:
        images: that it saw.
        vectors: of a catalog's images, from a number of threads: unit vectors (N, D).
        spent: seconds, and seconds of CPU, where another process trained.
    """

    images: int
    vectors: Callable[[Catalog, int], np.ndarray]
    spent: tuple[float, float] | None = None


def run_trial(request: Request) -> dict[str, Any]:
    """Train and measure; write the queries' values, and return the facts of the trial."""
    torch.set_num_threads(request.threads)
    trainers = {"ours": _train_ours, "frozen": _frozen, **dict.fromkeys(OML, train_oml)}
    wall, cpu = time.perf_counter(), time.process_time()
    note = ""
    outcome = None
    try:
        outcome = trainers.get(request.method, _train_peer)(request)
    except (Diverged, TrainingError) as error:
        note = f"diverged: {error}"
    spent = time.perf_counter() - wall, time.process_time() - cpu
    if outcome is not None and outcome.spent is not None:
        spent = outcome.spent
    facts: dict[str, Any] = {
        "seconds": round(spent[0], 2),
        "cpu_seconds": round(spent[1], 2),
        "images": outcome.images if outcome else 0,
    }
    catalog = open_catalog(request.test)
    if outcome is not None:
        vectors = outcome.vectors(catalog, request.threads)
        if not np.isfinite(vectors).all():
            note, outcome = "diverged: embeddings are not finite", None
    if outcome is None:  # no use for retrieval: every query fails
        labels = torch.from_numpy(catalog.class_ids)
        rows = relevant_of(labels, None).nonzero()[:, 0]
        values = {metric: np.zeros(len(rows)) for metric in METRICS}
    else:
        found = measure_queries(vectors, catalog.class_ids)
        rows = found.rows
        values = {metric: found.values[metric].numpy() for metric in METRICS}
    Path(request.queries).parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(request.queries, classes=catalog.class_ids[rows.numpy()], **values)
    facts["end"] = {metric: float(np.mean(values[metric])) for metric in METRICS}
    return {**facts, "note": note}


def embed(
    preprocess: Preprocess,
    unit: Callable[[Tensor], Tensor],
    catalog: Catalog,
    threads: int,
) -> np.ndarray:
    """Vectors (N, D) by `unit` of all images of a list, in batches (b, 3, S, S) uint8.

    Raises:
        LookalikeError: an image cannot be read.
    """
    bad = BadImages()
    loader = EvalLoader(
        catalog.records,
        preprocess=preprocess,
        batch_size=64,
        bad=bad,
        source=Source(threads=threads),
    )
    vectors = [unit(batch.images).numpy() for batch in loader]
    if bad.reasons:
        row, reason = next(iter(bad.reasons.items()))
        raise LookalikeError(f"{catalog.records[row].origin}: {reason}")
    return np.concatenate(vectors)


def _train_ours(request: Request) -> Outcome:
    run = lookalike.train(config_of(request))
    embedder = lookalike.load(run, device="cpu")
    images = _images(run)
    # Hundreds of trials: what is large goes.
    for folder in (run.checkpoints, run.model):
        shutil.rmtree(folder)
    return Outcome(images, partial(embed, embedder.preprocess, embedder.embed_batch))


def config_of(request: Request) -> Config:
    """Request of a user: the length of the run, and nothing else."""
    overrides = [f"{key}={value}" for key, value in request.settings.items()]
    asked = Config.load(overrides=overrides)
    base: dict[str, Any] = {
        "data.train": request.train,
        "data.threads": request.threads,
        "model.backbone": request.backbone,
        "model.pretrained": request.weights or False,
        "model.image_size": request.image_size,
        "train.epochs": max(1, round(request.epochs)),
        "train.max_steps": request.max_steps,
        "train.seed": request.seed,
        "train.report": False,
        "run.output": request.folder,
        "run.device": "cpu",
    }
    chosen = {key: asked.get(key) for key in asked.asked()}
    if "train.time_budget" in chosen:
        del base["train.epochs"]
    return Config().with_values({**base, **chosen})


def _images(run: Run) -> int:
    records = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    resolved = Config.build(_yaml(run.resolved))
    return max(record["step"] for record in records) * resolved.train.batch_size


def _yaml(path: Path) -> dict[str, Any]:
    import yaml

    return yaml.safe_load(path.read_text())


def _frozen(request: Request) -> Outcome:
    """The backbone as it comes, its features pooled by their mean."""
    torch.manual_seed(request.seed)
    embedder = Embedder.create(
        request.backbone,
        pretrained=request.weights or False,
        image_size=request.image_size,
        embedding_dim=2,
        pooling="avg",
    ).eval()

    @torch.inference_mode()
    def unit(images: Tensor) -> Tensor:
        return F.normalize(embedder.features(images)[0].mean(1), dim=1)

    return Outcome(0, partial(embed, embedder.preprocess, unit))


def _train_peer(request: Request) -> Outcome:
    settings = published(request.method, pretrained=request.weights is not None)
    network, images = train_peer(
        settings.changed(request.settings),
        open_catalog(request.train),
        backbone=request.backbone,
        weights=request.weights,
        image_size=request.image_size,
        epochs=request.epochs,
        batch_size=request.batch_size,
        seed=request.seed,
        threads=request.threads,
        max_steps=request.max_steps,
    )
    return Outcome(images, partial(embed, network.preprocess, network.unit))


def train_oml(request: Request) -> Outcome:
    """OML trains in its own environment, and embeds the pixels that our loader has prepared."""
    pretrained = request.weights is not None
    settings = OML[request.method][0].changed(OML[request.method][1] if pretrained else {})
    settings = settings.changed(request.settings)
    folder = Path(request.folder)
    folder.mkdir(parents=True)
    train, test = open_catalog(request.train), open_catalog(request.test)
    embedder = Embedder.create(
        request.backbone,
        pretrained=False,
        image_size=request.image_size,
        crop_pct=settings.crop_pct,
        embedding_dim=2,
        pooling="avg",
    )
    preprocess = embedder.preprocess
    pixels = folder / "test.npy"
    np.save(pixels, embed(preprocess, torch.clone, test, request.threads))
    job = {
        "settings": asdict(settings),
        "train": [
            [record.uri, int(klass)]
            for record, klass in zip(train.records, train.class_ids, strict=True)
        ],
        "test_pixels": str(pixels),
        "mean": preprocess.mean,
        "std": preprocess.std,
        "interpolation": preprocess.interpolation,
        "vectors": str(folder / "vectors.npy"),
        "facts": str(folder / "facts.json"),
        "folder": str(folder),
        **{
            name: getattr(request, name)
            for name in (
                "backbone", "weights", "image_size", "epochs", "batch_size", "seed", "threads",
                "max_steps",
            )
        },
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(job))
    command = [str(request.oml), str(HERE / "quality_oml.py"), str(folder / "job.json")]
    done = subprocess.run(command, check=False)
    if done.returncode != 0:
        raise LookalikeError(f"open-metric-learning failed with exit code {done.returncode}")
    facts = json.loads((folder / "facts.json").read_text())
    if not facts["finite"]:
        raise Diverged("weights are not finite")
    vectors = np.load(folder / "vectors.npy", allow_pickle=False)
    return Outcome(
        facts["images"], lambda *_: vectors, spent=(facts["seconds"], facts["cpu_seconds"])
    )


def write_request(request: Request, path: Path) -> None:
    path.write_text(json.dumps(asdict(request), indent=1) + "\n")


def main() -> int:
    request = Request(**json.loads(Path(sys.argv[1]).read_text()))
    try:
        found = run_trial(request)
    except LookalikeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    Path(request.result).write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
