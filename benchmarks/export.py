"""Exports of `lookalike export`: distance from the trained model, size and speed.

    python benchmarks/export.py --run runs/quickstart/run        # five models, three precisions
    python benchmarks/export.py --run runs/quickstart/run --models vit_tiny --precisions fp32

The run is a quickstart's; its test images, in the size they have, serve all models. The models of
the four families have random weights: for them the drift means something, and Recall@1 says only
whether the same neighbours are found. Times are of decoded pictures of 300 x 400 pixels, a batch at
a time, preprocessing included, on as many threads as torch takes here.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

import lookalike
from lookalike.data.decoding.decode import load_image
from lookalike.data.decoding.resize import resize
from lookalike.log import logger
from lookalike.model.embedder import Embedder
from lookalike.run import Run

FAMILIES = ("resnet18", "swint_tiny", "vit_tiny", "xcit_tiny")
QUICKSTART = "quickstart"
PRECISIONS = ("fp32", "fp16", "int8")
NO_BOUND = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, help="a run of lookalike quickstart")
    parser.add_argument("--models", nargs="+", default=[*FAMILIES, QUICKSTART])
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS))
    parser.add_argument("--side", type=int, default=112, help="of the families' input")
    parser.add_argument("--images", type=int, default=300, help="to compare on")
    parser.add_argument("--batch", type=int, default=8, help="of the timing")
    parser.add_argument("--no-times", action="store_true")
    arguments = parser.parse_args()
    logger.setLevel("WARNING")
    data = Run(Path(arguments.run)).config.read_text()
    lists = {key: line.split(": ", 1)[1] for line in data.splitlines() for key in ("train", "val")
             if line.startswith(f"  {key}: ")}  # fmt: skip
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; ms a picture of 300 x 400"
    )
    print(f"{'model':12}{'':6}{'drift':>10}{'mean':>10}{'dR@1':>9}{'dMAP@R':>9}{'MB':>8}"
          f"{'torch ms':>10}{'onnx ms':>9}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            model = _model(name, arguments, Path(folder))
            embedder = lookalike.load(model, device="cpu")
            batch = _pictures(lists["val"], arguments.batch)
            torch_ms = None if arguments.no_times else _ms(partial(_torch, embedder, batch), batch)
            for precision in arguments.precisions:
                _row(name, model, precision, lists, arguments, torch_ms, batch, Path(folder))


def _model(name: str, arguments: argparse.Namespace, folder: Path) -> Path:
    if name == QUICKSTART:
        return Path(arguments.run)
    torch.manual_seed(0)
    path = folder / name
    Embedder.create(
        name, pretrained=False, image_size=arguments.side, embedding_dim=256
    ).eval().save(path)
    return path


def _row(
    name: str,
    model: Path,
    precision: str,
    lists: dict[str, str],
    arguments: argparse.Namespace,
    torch_ms: float | None,
    batch: list[np.ndarray],
    folder: Path,
) -> None:
    done = lookalike.export(
        model,
        precision=precision,
        output=folder / f"{name}-{precision}.onnx",
        data=lists["val"],
        ranges=lists["train"],
        max_drift=NO_BOUND,
        max_recall_change=NO_BOUND,
        max_images=arguments.images,
        threads=2,
    )
    found = done.certificate
    times = ""
    if torch_ms is not None:
        exported = lookalike.load(done.path)
        onnx_ms = _ms(partial(exported.embed_pictures, batch), batch)
        times = f"{torch_ms:10.2f}{onnx_ms:9.2f}"
    print(
        f"{name:12}{precision:6}{found.drift:10.1e}{found.mean_drift:10.1e}"
        f"{found.recall_change:+9.4f}{found.map_change:+9.4f}"
        f"{done.path.stat().st_size / 1e6:8.1f}{times}",
        flush=True,
    )


def _pictures(uri: str, count: int) -> list[np.ndarray]:
    places = [line.rsplit(" ", 1)[0] for line in Path(uri).read_text().splitlines()[:count]]
    found = [load_image(Path(uri).parent / place) for place in places]
    return [
        np.ascontiguousarray(resize(one, 300, 400, "bicubic").permute(1, 2, 0).numpy())
        for one in found
    ]


def _torch(embedder: Embedder, pictures: list[np.ndarray]) -> None:
    embedder.embed_batch(torch.stack([embedder.preprocess.prepare(one) for one in pictures]))


def _ms(act: Callable[[], object], pictures: list[np.ndarray]) -> float:
    """Milliseconds a picture: the least of some rounds, which the rest of the machine delays."""
    act()
    times = []
    end = time.perf_counter() + 2
    while len(times) < 3 or time.perf_counter() < end:
        began = time.perf_counter()
        act()
        times.append(time.perf_counter() - began)
    return 1000 * min(times) / len(pictures)


if __name__ == "__main__":
    main()
