"""Complete state of a run on disk, without pickles: a resumed run continues exactly.

    checkpoints/step-00000120/
        state.json                       step, loss scale, best score, sizes and digests (SHA-256)
                                         of the files below, its own digest, and an `id` that is
                                         new with each save
        network.safetensors              backbone, neck and branch
        network-optimizer.safetensors    `<parameter>.<state>`, e.g. neck...weight.momentum_buffer
        ema.safetensors                  average of weights, with train.ema or average_last
        head-<name>-<part>.safetensors   class rows with their optimizer state, from every worker;
                                         see `lookalike.training.head_checkpoint`
        memory-<name>.safetensors        with loss.memory, embeddings of earlier batches

There are no random states: data order, augmentation and dropout follow from (seed, epoch, row) and
(seed, step, rank).

`lookalike.training.checkpoint_writer` writes it under another name and renames it when the files
of all workers are synced.
Sizes and digests are compared before files are read, which finds torn and damaged copies. Where
workers have directories of their own, each has the same state.json and the files of its workers.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lookalike.errors import RunError, one_line
from lookalike.losses.class_weights import ClassWeights
from lookalike.losses.pairs.batch_comparison import BatchComparison
from lookalike.losses.pairs.embedding_memory import EmbeddingMemory
from lookalike.model.training_network import TrainingNetwork
from lookalike.storage.local_files import digest_of, refused
from lookalike.training import head_checkpoint
from lookalike.training.loss_scaler import LossScaler
from lookalike.training.network_shards import NetworkShards, as_sharded, part_of
from lookalike.training.optimizer import check_moments, name_of
from lookalike.training.weight_average import WeightAverage

FORMAT = "lookalike checkpoint 2"
OLDER_FORMATS = ("lookalike checkpoint 1",)
"""Older formats that can be read: 1 had no class counts and centres in its heads."""

STATE_FILE = "state.json"
NETWORK_FILE = "network.safetensors"
OPTIMIZER_FILE = "network-optimizer.safetensors"
AVERAGE_FILE = "ema.safetensors"


@dataclass(frozen=True)
class Inputs:
    """Training and validation inputs of a run, compared when it is resumed.

    Attributes:
        batch_size: global.
        sampler: name and description.
        images: length of the training list.
        train_list: fingerprint of the training list.
        val_list: fingerprint of the validation list; empty without one.
        scoring: fingerprint of what scores depend on beside weights and list: preprocessing,
            pooling, and which images can be read; empty in checkpoints of older versions.
    """

    steps_per_epoch: int
    batch_size: int
    sampler: str
    images: int
    train_list: str
    val_list: str
    scoring: str = ""


@dataclass(frozen=True)
class Progress:
    """Progress of a run.

    Attributes:
        step: optimizer steps done.
        best_score: the best primary metric so far on this validation list and by this `scoring`,
            None without one.
        best_step: the step that reached it.
        skipped: steps skipped because the loss or a gradient was not finite.
        since_best: measurements after the best one.
        shift: step + shift is the position in the training data, in steps of the current `inputs`;
            not 0 where earlier steps had another batch size.
        average_from: first step of an average of equal weights; None without one.
        inputs: None in checkpoints of older versions.
    """

    step: int = 0
    best_score: float | None = None
    best_step: int = 0
    skipped: int = 0
    since_best: int = 0
    shift: int = 0
    average_from: int | None = None
    inputs: Inputs | None = None

    @classmethod
    def of(cls, saved: Mapping[str, Any]) -> Progress:
        """Parse `progress` of state.json."""
        inputs = saved.get("inputs")
        return cls(**{**saved, "inputs": None if inputs is None else Inputs(**inputs)})


@dataclass(frozen=True)
class Trained:
    """State that training changes: the content of a checkpoint.

    Attributes:
        network: backbone, neck and branch, the same on every worker.
        heads: class weights by the name of their loss.
        comparisons: losses without class weights by their name.
        shards: of the network, where each worker holds a part of it.
    """

    network: nn.Module
    heads: Mapping[str, ClassWeights]
    optimizer: torch.optim.Optimizer
    scaler: LossScaler
    average: WeightAverage | None
    comparisons: Mapping[str, BatchComparison] = field(default_factory=dict)
    shards: NetworkShards | None = None

    @property
    def losses(self) -> dict[str, ClassWeights | BatchComparison]:
        """All losses by name."""
        return {**self.comparisons, **self.heads}

    @property
    def memories(self) -> dict[str, EmbeddingMemory]:
        """Cross-batch memories by the name of their loss."""
        return {
            name: each.memory for name, each in self.comparisons.items() if each.memory is not None
        }

    @property
    def optimized(self) -> dict[str, nn.Parameter]:
        """Parameters as the optimizer has them, by their name in the network."""
        return dict(self.network.named_parameters()) if self.shards is None else self.shards.parts

    @contextmanager
    def whole(self) -> Iterator[TrainingNetwork]:
        """The network with all its weights, inside the block; entered by all workers together.

        Where it is sharded, a copy.
        """
        assert isinstance(self.network, TrainingNetwork)
        with nullcontext(self.network) if self.shards is None else self.shards.gathered() as found:
            yield found


def folder_name(step: int) -> str:
    """`step-00000120`; names sort by step."""
    return f"step-{step:08d}"


def load(folder: Path, trained: Trained) -> Progress:
    """Load the state of `folder` into `trained`, in place.

    Raises:
        RunError: a file is missing, torn or does not fit the model; names it.
    """
    state = read_state(folder)
    progress = Progress.of(state["progress"])
    with reading(folder):
        _load_network(folder, trained)
        steps = progress.step - progress.skipped
        for name, head in trained.heads.items():
            head_checkpoint.load_head(folder, name, head, trained.optimizer, steps=steps)
        for name, memory in trained.memories.items():
            memory.load_state_dict(safetensors.torch.load_file(folder / memory_file(name)))
            memory.restored()
        if trained.average is not None:
            trained.average.load(_average(folder))
    trained.scaler.scale, trained.scaler.good_steps = state["loss_scale"]
    return progress


def embedder_weights(folder: Path) -> dict[str, Tensor]:
    """Weights of the model in a checkpoint: the average where one is kept.

    Raises:
        RunError: they are missing or broken.
    """
    with reading(folder):
        saved = safetensors.torch.load_file(folder / NETWORK_FILE)
        prefix = "embedder."
        found = {n.removeprefix(prefix): v for n, v in saved.items() if n.startswith(prefix)}
        if (folder / AVERAGE_FILE).exists():  # of what learns
            found |= safetensors.torch.load_file(folder / AVERAGE_FILE)
        return found


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Translate errors of reading the files of `folder`.

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
        raise RunError(f"{folder}: does not fit this configuration: {one_line(error)}") from None


def parse_state(
    text: str | bytes, place: object, sizes: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Parse and check the state.json of a checkpoint on disk or in object storage.

    Args:
        text: its content.
        place: the folder, for messages.
        sizes: those of the files in it, which must be complete; None does not check them.

    Raises:
        RunError: it is damaged or of another version, or a file is missing or has another size
            than when it was written.
    """
    try:
        state = json.loads(text)
        format, files = state["format"], state["files"]
        if format not in (FORMAT, *OLDER_FORMATS):
            raise RunError(f"{place}: written by another version of lookalike, as {format!r}")
        scale, good_steps = map(float, state["loss_scale"])
        plain = scale > 0 and good_steps >= 0 and type(Progress.of(state["progress"]).step) is int
        plain &= all(
            name == Path(name).name and name not in ("", "..") and type(size) is int
            for name, size in files.items()
        )
        digests = state.get("sha256", {})
        if digests or "own_sha256" in state:  # older ones have neither
            own = state["own_sha256"]
            whole = {key: value for key, value in state.items() if key != "own_sha256"}
            plain &= digests.keys() == files.keys() and own == digest_of_state(whole)
    except (RecursionError, TypeError, AttributeError, KeyError, ValueError):
        plain = False
    if not plain:
        raise RunError(f"{place}: {STATE_FILE} is damaged")
    if sizes is not None and (fault := size_fault(place, files, sizes)):
        raise RunError(fault)
    return dict(state)


def size_fault(place: object, files: Mapping[str, int], sizes: Mapping[str, int]) -> str | None:
    """The first of `files` that is missing or of another size in `sizes`; None without one."""
    for name, size in files.items():
        if name not in sizes:
            return f"{place}: {name} is missing"
        if sizes[name] != size:
            return f"{place}/{name}: has {sizes[name]} bytes instead of {size}"
    return None


def read_state(folder: Path, *, verify: bool = False) -> dict[str, Any]:
    """Content of state.json, after the sizes of its files, and with `verify` their digests, fit.

    Raises:
        RunError: something is missing, has another size than when it was written, or is damaged.
    """
    try:
        text = (folder / STATE_FILE).read_bytes()
        sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.exists()}
    except FileNotFoundError:
        raise RunError(f"{folder}: {STATE_FILE} is missing") from None
    except OSError as error:
        raise RunError(f"{folder / STATE_FILE}: cannot be read: {refused(error)}") from None
    state = parse_state(text, folder, sizes)
    if verify:
        _verify(folder, state.get("sha256", {}))
    return state


def is_as_written(folder: Path, name: str, state: Mapping[str, Any]) -> bool:
    """True if a file of a checkpoint exists with the size and digest of its state.json."""
    path = folder / name
    if not path.is_file() or path.stat().st_size != state["files"][name]:
        return False
    digest = state.get("sha256", {}).get(name)
    return digest is None or digest == digest_of(path)


def _verify(folder: Path, digests: Mapping[str, str]) -> None:
    """Compare the files with their digests, in parallel."""
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        try:
            found = list(pool.map(digest_of, (folder / name for name in digests)))
        except OSError as error:
            raise RunError(
                f"{error.filename or folder}: cannot be read: {refused(error)}"
            ) from None
    for name, digest in zip(digests, found, strict=True):
        if digest != digests[name]:
            raise RunError(
                f"{folder / name}: damaged: its bytes are not those that were written (SHA-256 "
                f"{digest[:12]}..., and not {digests[name][:12]}...)"
            )


def digest_of_state(state: Mapping[str, Any]) -> str:
    """SHA-256 of a state.json without its own digest."""
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def newest(folder: Path, *, verify: bool = True) -> tuple[Path | None, list[str]]:
    """Newest complete checkpoint in `folder`, and the faults of newer ones."""
    faults = []
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            read_state(path, verify=verify)
        except RunError as error:
            faults.append(str(error))
        else:
            return path, faults
    return None, faults


def none_complete(run: object) -> RunError:
    """The error of a run here or in object storage whose checkpoints are all damaged."""
    return RunError(
        f"{run}: no complete checkpoint is left to resume from; train anew with another --output"
    )


def prune(folder: Path, *, written: str, keep: int, also: Path | None) -> None:
    """Remove all but the newest `keep` checkpoints and `also`.

    Those later than `written`, the newest, are damaged: the resumed run skipped them.
    """
    found = sorted(folder.glob("step-*"), reverse=True)
    later = [path for path in found if path.name > written]
    for path in [*later, *found[len(later) + keep :]]:
        if path != also:
            shutil.rmtree(path)
    for path in folder.glob(".step-*.partial"):
        shutil.rmtree(path)


def memory_file(loss: str) -> str:
    """File of the cross-batch memory of a loss."""
    return f"memory-{loss}.safetensors"


def _load_network(folder: Path, trained: Trained) -> None:
    load_network(trained.network, safetensors.torch.load_file(folder / NETWORK_FILE))
    saved = safetensors.torch.load_file(folder / OPTIMIZER_FILE)
    states: dict[str, dict[str, Tensor]] = {}
    for key, value in saved.items():
        name, state = key.rsplit(".", 1)
        states.setdefault(name, {})[state] = value
    moments = {key for each in states.values() for key in each} - {"step"}
    check_moments(moments, name_of(trained.optimizer))
    parameters = dict(trained.network.named_parameters())
    for name, optimized in trained.optimized.items():
        if name in states:
            trained.optimizer.state[optimized] = {
                key: _placed(value, parameters[name]) for key, value in states[name].items()
            }


def load_network(network: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Load whole tensors into a network, sharded or not.

    Raises:
        RuntimeError: they do not fit.
    """
    mine = network.state_dict()
    fitting = {
        name: as_sharded(value, mine[name])
        if name in mine and value.shape == mine[name].shape
        else value
        for name, value in saved.items()
    }
    network.load_state_dict(fitting)


def _average(folder: Path) -> dict[str, Tensor]:
    path = folder / AVERAGE_FILE
    if not path.exists():
        raise RunError(
            f"{folder}: has no average of the weights; it was made without train.ema and "
            "train.average_last"
        )
    return dict(safetensors.torch.load_file(path))


def _placed(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """Optimizer state on the device and in the memory format of its parameter."""
    if isinstance(parameter, DTensor):
        return part_of(as_sharded(value, parameter)) if value.shape == parameter.shape else value
    if value.shape == parameter.shape:
        return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    return value.to(parameter.device)
