"""`lookalike plan` against real steps: peak memory and seconds, predicted and measured.

    python benchmarks/plan.py                    # both, with heads of 200,000 classes
    python benchmarks/plan.py --only memory --classes 400000

Each measurement is a process of its own for each worker, which trains a few steps on random
pixels through the program's own parts. Memory is the peak of the resident set over what the
process had after its imports; seconds are the lower quartile of the steps of the slowest worker,
because whatever else the machine does only ever adds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

from process_figures import forget_peak, memory
from worker_processes import run_workers

NETWORK = [
    "model.backbone=resnet18", "model.image_size=64", "model.pooling=gem+avg",
    "model.embedding_dim=256", "train.batch_size=32", "model.pretrained=false",
]  # fmt: skip
CASES = {
    "sgd": [],
    "adamw": ["optim.name=adamw"],
    "sgd, one head": ["loss.classification_weight=0"],
    "sgd, fused": ["head.fused_update=true"],
    "adamw, fused": ["optim.name=adamw", "head.fused_update=true"],
    "sgd, bf16": ["head.dtype=bf16"],
    "adamw, bf16": ["optim.name=adamw", "head.dtype=bf16"],
    "sgd, bf16 products": ["head.precision=bf16", "head.fused_update=true"],
    "sgd, sampled 0.1": ["head.sample_rate=0.1"],
    "sgd, 3 centres": ["head.centres=3", "loss.name=arcface", "loss.classification_weight=0"],
    "sgd, average": ["train.ema=0.999"],
}
_VIT = ["model.backbone=vit_base", "head.parallel=model", "optim.name=adamw"]
WORKERS = {
    "dense, 2 workers": (2, []),
    "sharded, 2 workers": (2, ["head.parallel=model"]),
    "sharded, fused, 2 workers": (2, ["head.parallel=model", "head.fused_update=true"]),
    "vit_base, 2 workers": (2, [*_VIT]),
    "vit_base, shared, 2 workers": (2, [*_VIT, "train.shard_backbone=true"]),
}
SPEED = {
    "1 worker": (1, ["loss.classification_weight=0"]),
    "2 workers, sharded": (2, ["head.parallel=model"]),
    "3 workers, sharded": (3, ["head.parallel=model"]),
    "1 worker, fused": (1, ["loss.classification_weight=0", "head.fused_update=true"]),
    "2 workers, sharded, fused": (2, ["head.parallel=model", "head.fused_update=true"]),
    "1 worker, adamw": (1, ["loss.classification_weight=0", "optim.name=adamw"]),
    "1 worker, bf16, fused": (1, ["loss.classification_weight=0", "head.dtype=bf16"]),
    "2 workers, dense": (2, ["loss.classification_weight=0"]),
}


def child(classes: int, steps: int, settings: list[str]) -> None:
    """Train a few steps as one worker, and print what it took."""
    import numpy as np
    import torch

    from lookalike.config.config import Config
    from lookalike.data.catalog import Catalog
    from lookalike.data.classes import Classes
    from lookalike.data.loading.batch import Batch
    from lookalike.data.loading.pipeline import AHEAD
    from lookalike.distributed.world import World
    from lookalike.training.build import create_embedder, create_step, create_trained
    from lookalike.training.build_heads import create_heads, metric_loss
    from lookalike.training.learning_rate import set_lr
    from lookalike.training.resolve import resolve

    config = Config.load(None, settings)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    with World.from_env("cpu") as world:
        names = tuple(map(str, range(classes)))
        catalog = Catalog((), np.zeros(0, np.int64), Classes(names))
        torch.ones(256, 256) @ torch.ones(256, 256)  # the libraries' threads
        base = memory("VmRSS")
        forget_peak()
        torch.manual_seed(0)
        margin = metric_loss(config)
        embedder = create_embedder(config, margin)
        config = resolve(config, margin, embedder, world, classes)
        heads = create_heads(config, margin, catalog, world)
        trained = create_trained(config, embedder, heads, world)
        step = create_step(config, trained, world)
        step.prepare(frozen=False)
        updates = [head.update for head in heads.values() if head.update is not None]
        set_lr(trained.optimizer, 0.01, updates)
        share = len(world.shard(config.train.batch_size))
        side = config.model.image_size
        waiting = [
            torch.randint(0, 256, (share, side, side, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
            for _ in range(AHEAD + 2)
        ]
        seconds = []
        for number in range(steps):
            labels = torch.randint(0, classes, (share,))
            batch = Batch(waiting[number % len(waiting)], labels, labels)
            world.barrier()
            began = time.perf_counter()
            step(batch, number)
            seconds.append(time.perf_counter() - began)
        found = {
            "bytes": memory("VmHWM") - base,
            "seconds": sorted(seconds[2:])[(steps - 3) // 4],
        }
        print(json.dumps(found))


def measured(workers: int, classes: int, steps: int, settings: list[str]) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", "--classes", str(classes)]
    command += ["--steps", str(steps), *settings, f"run.workers={workers}"]
    found = [json.loads(output.splitlines()[-1]) for output in run_workers(command, workers)]
    return {key: max(figures[key] for figures in found) for key in found[0]}


def compare(workers: int, classes: int, settings: list[str], *, speed: bool) -> tuple[float, float]:
    from lookalike.commands.plan import FIRST_STEP, plan
    from lookalike.config.config import Config

    settings = [*NETWORK, *settings]
    config = Config.load(None, [*settings, f"run.workers={workers}"])
    planned = plan(config, classes=classes, measure=speed)
    real = measured(workers, classes, 11 if speed else 3, settings)
    if speed:
        assert planned.speed is not None
        return planned.speed.step, real["seconds"]
    return planned.memory.peak - planned.memory.runtime + FIRST_STEP, real["bytes"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=200_000)
    parser.add_argument("--only", choices=["memory", "speed"])
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("settings", nargs="*")
    options = parser.parse_args()
    if options.child:
        child(options.classes, options.steps, options.settings)
        return
    print(f"{options.classes:,} classes, {' '.join(NETWORK)}")
    memory = {**{name: (1, case) for name, case in CASES.items()}, **WORKERS}
    for kind, cases in (("memory", memory), ("speed", SPEED)):
        if options.only not in (None, kind):
            continue
        unit, factor = ("MB", 1e-6) if kind == "memory" else ("ms", 1e3)
        for name, (workers, settings) in cases.items():
            if options.case not in name:
                continue
            predicted, real = compare(
                workers, options.classes, [*settings, *options.settings], speed=kind == "speed"
            )
            print(
                f"{kind:8}{name:28} predicted {predicted * factor:8.0f} {unit}   "
                f"measured {real * factor:8.0f} {unit}   ratio {predicted / real:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
