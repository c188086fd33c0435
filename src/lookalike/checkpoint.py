"""Everything that a run needs to go on exactly, on disk without pickles.

    checkpoints/step-00000120/
        state.json                       step, loss scale, best score, sizes of the files below,
                                         and an `id` that no other saving has, of this step either
        network.safetensors              backbone, neck and branch
        network-optimizer.safetensors    `<parameter>.<state>`, e.g. neck...weight.momentum_buffer
        ema.safetensors                  where an average is kept
        head-<name>-<part>.safetensors   class rows with their optimizer state, from every worker;
                                         see `lookalike.elastic`

Random states are not among them, because nothing here has any: data order, augmentation and
dropout follow from (seed, epoch, row) and (seed, step, rank).

A checkpoint is written under another name and renamed when every worker's files are safely on
disk; its state.json holds the files' sizes, so that a torn copy is found out. Where workers have
directories of their own, each directory has the same state.json and the files of its workers.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from lookalike import elastic
from lookalike.distributed import World
from lookalike.errors import RunError
from lookalike.losses.head import Head
from lookalike.optim import Ema, LossScaler

FORMAT = "lookalike checkpoint 2"
OLDER_FORMATS = ("lookalike checkpoint 1",)
"""Formats that can be read beside today's: 1 had no class counts and centres in its heads."""

STATE_FILE = "state.json"
NETWORK_FILE = "network.safetensors"
AVERAGE_FILE = "ema.safetensors"


@dataclass(frozen=True)
class Inputs:
    """What a run trains on and is measured on, to be compared when it is resumed.

    Attributes:
        steps_per_epoch: of the sampler.
        batch_size: images in a step of all workers together.
        sampler: its name and what it does, in words.
        images: in the training list.
        train_list: fingerprint of the training list.
        val_list: fingerprint of the validation list; empty without one.
    """

    steps_per_epoch: int
    batch_size: int
    sampler: str
    images: int
    train_list: str
    val_list: str


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        step: optimizer steps done.
        best_score: the best primary metric so far on this validation list, None without one.
        best_step: the step that reached it.
        skipped: steps left out because the loss or a gradient was not finite.
        since_best: measurements after the best one.
        shift: step + shift is the position in the training data, in steps of `inputs` as they
            are now; not 0 where earlier steps had another size.
        inputs: what the run trains on and is measured on; None where an older version saved it.
    """

    step: int = 0
    best_score: float | None = None
    best_step: int = 0
    skipped: int = 0
    since_best: int = 0
    shift: int = 0
    inputs: Inputs | None = None

    @classmethod
    def of(cls, saved: Mapping[str, Any]) -> Progress:
        """That of a checkpoint's state.json."""
        inputs = saved.get("inputs")
        return cls(**{**saved, "inputs": None if inputs is None else Inputs(**inputs)})


@dataclass(frozen=True)
class Trained:
    """All that changes in training: what a checkpoint holds.

    Attributes:
        network: backbone, neck and branch, the same on every worker.
        heads: the class weights by the name of their loss.
        optimizer: over both.
        scaler: the loss scale.
        ema: the average of weights, or None.
    """

    network: nn.Module
    heads: Mapping[str, Head]
    optimizer: torch.optim.Optimizer
    scaler: LossScaler
    ema: Ema | None


def folder_name(step: int) -> str:
    """`step-00000120`; names sort by step."""
    return f"step-{step:08d}"


def save(folder: Path, trained: Trained, progress: Progress, world: World) -> None:
    """Write `folder`, all workers together; it appears only when it is complete.

    Raises:
        RunError: the disk refused, on whichever worker; all workers raise.
    """
    aside = folder.with_name(f".{folder.name}.partial")
    if world.is_keeper:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    world.barrier()
    cause, mine = None, {}
    try:
        for name, (tensors, metadata) in _files(trained, world):
            _write(aside / name, tensors, metadata)
            mine[name] = (aside / name).stat().st_size
    except (OSError, SafetensorError) as error:
        cause = str(error)
    told = world.tell({"id": secrets.token_hex(8), "files": mine, "cause": cause})
    for each in told:
        if each["cause"] is not None:
            cause = cause or each["cause"]
            raise RunError(f"{folder}: the checkpoint could not be written: {cause}")
    if world.is_keeper:
        files = {name: size for each in told for name, size in each["files"].items()}
        state = {
            "format": FORMAT,
            "id": told[0]["id"],
            "progress": asdict(progress),
            "workers": world.size,
            "loss_scale": [trained.scaler.scale, trained.scaler.good_steps],
            "files": dict(sorted(files.items())),
        }
        _write_synced(aside / STATE_FILE, json.dumps(state, indent=2).encode())
        if folder.exists():  # the same step again, after a resume
            shutil.rmtree(folder)
        aside.rename(folder)
        _sync(folder.parent)
    world.barrier()


def load(folder: Path, trained: Trained) -> Progress:
    """Put the state of `folder` into `trained`, in place, and say where it stands.

    Raises:
        RunError: a file is missing, torn or does not fit the model; names it.
    """
    state = read_state(folder)
    progress = Progress.of(state["progress"])
    with reading(folder):
        _load_network(folder, trained)
        steps = progress.step - progress.skipped
        for name, head in trained.heads.items():
            elastic.load_head(folder, name, head, trained.optimizer, steps=steps)
        if trained.ema is not None:
            trained.ema.load(_average(folder))
    trained.scaler.scale, trained.scaler.good_steps = state["loss_scale"]
    return progress


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Say of anything wrong with the files of `folder` what it means for the user.

    Raises:
        RunError: a file is missing or broken, or does not fit.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise RunError(
            f"{folder}: {Path(error.filename or '?').name} is missing; the checkpoint was made "
            "with other settings (ema, loss, head) or is incomplete"
        ) from None
    except (SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise RunError(
            f"{folder}: does not fit this configuration: {' '.join(str(error).split())[:300]}"
        ) from None


def read_state(folder: Path) -> dict[str, Any]:
    """The content of state.json, after its files were found whole.

    Raises:
        RunError: something is missing or has another size than when it was written.
    """
    try:
        state = json.loads((folder / STATE_FILE).read_text("utf-8"))
        files, format = state["files"], state["format"]
    except (OSError, ValueError, KeyError):
        raise RunError(f"{folder}: {STATE_FILE} is missing or broken") from None
    if format not in (FORMAT, *OLDER_FORMATS):
        raise RunError(f"{folder}: written by another version of lookalike, as {format!r}")
    for name, size in files.items():
        path = folder / name
        if not path.exists():
            raise RunError(f"{folder}: {name} is missing")
        if path.stat().st_size != size:
            raise RunError(f"{path}: has {path.stat().st_size} bytes instead of {size}")
    return dict(state)


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint in `folder`, and what is wrong with newer ones."""
    faults = []
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            read_state(path)
        except RunError as error:
            faults.append(str(error))
        else:
            return path, faults
    return None, faults


def prune(folder: Path, *, keep: int, also: Path | None) -> None:
    """Remove all but the newest `keep` checkpoints and the one named by `also`."""
    for path in sorted(folder.glob("step-*"), reverse=True)[keep:]:
        if path != also:
            shutil.rmtree(path)
    for path in folder.glob(".step-*.partial"):
        shutil.rmtree(path)


def _files(
    trained: Trained, world: World
) -> Iterator[tuple[str, tuple[dict[str, Tensor], dict[str, str]]]]:
    """What this worker writes: file name, tensors and metadata."""
    if world.is_main:
        yield NETWORK_FILE, (trained.network.state_dict(), {})
        yield "network-optimizer.safetensors", (_optimizer_tensors(trained), {})
        if trained.ema is not None:
            yield AVERAGE_FILE, (trained.ema.average, {})
    for name, head in trained.heads.items():
        if head.sharded or world.is_main:
            part = world.rank if head.sharded else 0
            yield elastic.file_name(name, part), elastic.content(head, trained.optimizer)


def _optimizer_tensors(trained: Trained) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value
        for name, parameter in trained.network.named_parameters()
        for key, value in trained.optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def _load_network(folder: Path, trained: Trained) -> None:
    trained.network.load_state_dict(safetensors.torch.load_file(folder / NETWORK_FILE))
    saved = safetensors.torch.load_file(folder / "network-optimizer.safetensors")
    states: dict[str, dict[str, Tensor]] = {}
    for key, value in saved.items():
        name, state = key.rsplit(".", 1)
        states.setdefault(name, {})[state] = value
    for name, parameter in trained.network.named_parameters():
        if name in states:
            trained.optimizer.state[parameter] = {
                key: _placed(value, parameter) for key, value in states[name].items()
            }


def _average(folder: Path) -> dict[str, Tensor]:
    path = folder / AVERAGE_FILE
    if not path.exists():
        raise RunError(f"{folder}: has no average of the weights; it was made with train.ema=0")
    return dict(safetensors.torch.load_file(path))


def _placed(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """Where the optimizer wants a state: beside its parameter, in the parameter's memory order."""
    if value.shape == parameter.shape:
        return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    return value.to(parameter.device)


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    # No tensors with empty metadata (an optimizer before its first step) is a file that
    # safetensors 0.8 writes and cannot read; without metadata it can.
    safetensors.torch.save_file(plain, path, metadata or None)
    _sync(path)


def _write_synced(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
