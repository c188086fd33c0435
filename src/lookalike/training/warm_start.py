"""Start from the weights of an earlier run, with class weights matched by label."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from lookalike import storage
from lookalike.data.classes import Classes, listed
from lookalike.data.readers.annotation import canonical_label
from lookalike.distributed.world import ALONE, World
from lookalike.errors import RunError, reason_of
from lookalike.log import logger
from lookalike.losses.class_weights import ClassWeights
from lookalike.losses.head_update import UpdateRule
from lookalike.model.embedder import CONFIG_FILE, Embedder
from lookalike.model.lora import is_lora
from lookalike.model.saved_model import read_saved
from lookalike.run import Run
from lookalike.training import checkpoint
from lookalike.training.build_heads import LEVEL
from lookalike.training.checkpoint import AVERAGE_FILE, NETWORK_FILE, Trained, load_network
from lookalike.training.frozen_start import StartFeatures
from lookalike.training.head_checkpoint import HeadRows, load_margin_state
from lookalike.training.network_shards import whole_of
from lookalike.training.weight_average import WeightAverage

_EMBEDDER = "embedder."
_MODEL_KEYS = ("backbone", "embedding_dim", "pooling", "quarters_stride", "free_length")


@dataclass(frozen=True)
class _Source:
    """Checkpoint of an earlier run.

    Attributes:
        name: as given by the user.
        choice: reason for this checkpoint, for the log.
        run: output directory of the checkpoint.
        classes: of the earlier run.
    """

    name: str
    folder: Path
    choice: str
    run: Run
    step: int
    classes: Classes


def begin(
    name: str,
    trained: Trained,
    classes: Classes,
    world: World = ALONE,
    features: Callable[[Embedder], StartFeatures] | None = None,
) -> None:
    """Load the weights of an earlier run before the first step; called by all workers together.

    The network is loaded as it is, or its average where one was kept. Rows of a head follow their
    label; rows of other labels keep their random direction, at the median length of the inherited
    rows, so that a step of SGD turns them by as much (by lr / length^2 where the loss compares
    cosines). A head that the earlier run lacks, as one without class weights does, starts anew,
    and so do those of coarser classes. Optimizer state starts empty.

    Args:
        name: an output directory, of which the best checkpoint is taken, else the newest; or a
            checkpoint in one (`runs/old/checkpoints/step-00000120`).
        trained: changed in place.
        features: computes those of training images by the model that was loaded, for the start
            of heads that the earlier run lacks; None to start them at random.

    Raises:
        RunError: there is no complete checkpoint, or its network or a head differs; names the
            first difference.
    """
    with world.raise_together():
        source = _open(name, verify=True) if world.is_main else None
    chosen = world.broadcast_object(None if source is None else str(source.folder))
    with world.raise_together():
        source = source or _open(chosen, verify=False)
    with checkpoint.reading(source.folder):
        _take_network(source, trained.network, trained.average)
        old = source.classes.rows
        match = torch.tensor([old.get(canonical_label(name), -1) for name in classes.names])  # (C,)
        heads = {name: head for name, head in trained.heads.items() if not name.startswith(LEVEL)}
        lacking = {
            head_name: head
            for head_name, head in heads.items()
            if not any(source.folder.glob(f"head-{head_name}-*.safetensors"))
        }
        for head_name, head in heads.items():
            if head_name not in lacking:
                _take_head(source, head_name, head, match)
    if len(lacking) < len(heads):
        _report(source, classes, match)
    else:
        logger.info(
            "start from %s (step %d, %s): its network%s",
            source.name, source.step, source.choice,
            "" if lacking else "; the loss has no class weights",
        )  # fmt: skip
    if lacking:
        logger.info(
            "%s: that run has no such class weights; they start %s", ", ".join(lacking),
            "at random" if features is None else "as the mean embeddings of their classes",
        )  # fmt: skip
        if features is not None:
            with trained.whole() as network:
                features(network.embedder).set_class_weights(network.embedder.neck, lacking)


def _open(name: str, *, verify: bool) -> _Source:
    """Find the checkpoint and its classes; with `verify`, compare the digests of its files."""
    if storage.is_remote(name):
        raise RunError(
            f"train.start_from={storage.public(name)}: takes a directory of this machine; give one "
            "(a mounted bucket will do)"
        )
    given = Path(storage.local_path(name)).absolute()
    if (given / checkpoint.STATE_FILE).exists():
        run, folder, choice = Run(given.parent.parent), given, "as given"
    else:
        run = Run(given)
        folder, choice = _choose(name, run)
    step = checkpoint.read_state(folder, verify=verify)["progress"]["step"]
    try:
        text = run.classes.read_bytes()
    except OSError as error:
        raise RunError(
            f"{run.classes}: cannot be read ({reason_of(error)}); the class weights "
            "of train.start_from are found by their labels in it"
        ) from None
    return _Source(name, folder, choice, run, step, Classes.from_json(text, str(run.classes)))


def _choose(name: str, run: Run) -> tuple[Path, str]:
    best = run.checkpoints / "best"
    if best.exists():
        folder = run.checkpoints / best.read_text("utf-8").strip()
        try:
            checkpoint.read_state(folder, verify=True)
        except RunError as error:
            logger.warning("%s; skipped", error)
        else:
            return folder, "its best"
    newest, faults = checkpoint.newest(run.checkpoints)
    for fault in faults:
        logger.warning("%s; skipped", fault)
    if newest is None:
        raise RunError(
            f"train.start_from={name}: no complete checkpoint in {run.checkpoints}; give the "
            "output directory of a run, or one of its checkpoints/step-..."
        )
    return newest, "its newest"


def _take_network(source: _Source, network: nn.Module, average: WeightAverage | None) -> None:
    """Load the network after comparing it, and start the average of this run with it."""
    embedder = network.get_submodule(_EMBEDDER[:-1])
    assert isinstance(embedder, Embedder)
    _compare_settings(source, embedder)
    saved = safetensors.torch.load_file(source.folder / NETWORK_FILE)
    if (source.folder / AVERAGE_FILE).exists():
        averaged = safetensors.torch.load_file(source.folder / AVERAGE_FILE)
        saved |= {_EMBEDDER + name: value for name, value in averaged.items()}
    mine = network.state_dict()
    if not any(map(is_lora, saved)):  # new ones, beside the weights of that run
        saved |= {name: whole_of(value) for name, value in mine.items() if is_lora(name)}
    for name in [*mine, *saved]:
        here, there = (_shape(tensors.get(name)) for tensors in (mine, saved))
        if here != there:
            fix = "give the model.* settings of that run"
            if is_lora(name):
                fix = "give model.lora_rank as in that run"
            if name.startswith("branch."):
                weight = 1 if name in saved else 0
                fix = f"set loss.classification_weight={weight}, as in that run"
            raise RunError(
                f"train.start_from={source.name}: {name} has {there} there and {here} here; {fix}"
            )
    load_network(network, saved)
    if average is not None:
        average.load(embedder.state_dict())


def _compare_settings(source: _Source, embedder: Embedder) -> None:
    """Compare settings first: they are easier to fix than a tensor's shape."""
    file = source.run.model / CONFIG_FILE
    if not file.exists():
        return  # a checkpoint that was copied alone: tensors are compared
    there, here = dict(read_saved(source.run.model)), embedder.describe()
    for key in _MODEL_KEYS:
        if key in there and there[key] != here.get(key):
            setting = f"model.{key}={there[key]}"
            if key == "free_length":  # follows from the loss
                setting = "a loss like that of the earlier run"
            raise RunError(
                f"train.start_from={source.name}: its {key} is {there[key]}, and {here.get(key)} "
                f"here; give {setting}, or leave train.start_from out"
            )


def _shape(tensor: Tensor | None) -> str:
    return "no values" if tensor is None else f"shape {tuple(tensor.shape)}"


@torch.no_grad()
def _take_head(source: _Source, name: str, head: ClassWeights, match: Tensor) -> None:
    """Load the rows of this worker's classes that have an old class, `match` (C,); -1 for none."""
    wanted = match[head.rows.start : head.rows.stop]  # (c,)
    order = torch.argsort(wanted)  # own classes, by old class
    order = order[wanted[order] >= 0]
    lengths = torch.empty(len(order) * head.centres)
    with HeadRows(source.folder, name) as saved:
        for setting, there, here in (
            ("model.embedding_dim", saved.dim, head.dim),
            ("head.centres", saved.centres, head.centres),
            ("classes", saved.classes, len(source.classes)),
        ):
            if there != here:
                raise RunError(
                    f"train.start_from={source.name}: head '{name}' has {setting}={there}, and not "
                    f"{here}; give {setting}={there}"
                )
        weight = head.weight.unflatten(0, (len(wanted), head.centres))  # (c, K, D), same memory
        # Pending updates of a sampled head are applied. Those of the weight are determined by the
        # checkpoint; the constants of the rule matter to moments only, which are not loaded.
        rule = UpdateRule("adamw" if "exp_avg" in saved.moments else "sgd")
        for where, rows in saved.read(wanted[order], rule):
            found = rows["weight"].float()
            lengths[where.start * head.centres : where.stop * head.centres] = found.norm(dim=1)
            own = order[where].to(weight.device)
            weight[own] = found.unflatten(0, (-1, head.centres)).to(weight)
        load_margin_state(saved, head)
    lengths = torch.cat(head.peers.gather(lengths.to(weight.device)))
    new = torch.ones(len(wanted), dtype=torch.bool)
    new[order] = False
    if len(lengths) and new.any():
        rows = weight[new.to(weight.device)].float()  # (n, K, D)
        rows *= lengths.median() / rows.norm(dim=2, keepdim=True)
        weight[new.to(weight.device)] = rows.to(weight.dtype)


def _report(source: _Source, classes: Classes, match: Tensor) -> None:
    fresh = [classes.names[row] for row in (match < 0).nonzero()[:, 0].tolist()]
    kept = len(classes) - len(fresh)
    left = torch.ones(len(source.classes), dtype=torch.bool)
    left[match[match >= 0]] = False
    gone = [source.classes.names[row] for row in left.nonzero()[:, 0].tolist()]
    (logger.info if kept else logger.warning)(
        "start from %s (step %d, %s): %s of %s classes keep their weights, %s are new%s, %s are "
        "gone%s",
        source.name, source.step, source.choice, f"{kept:,}", f"{len(classes):,}",
        f"{len(fresh):,}", f" ({listed(fresh)})" if fresh else "",
        f"{len(gone):,}", f" ({listed(gone)})" if gone else "",
    )  # fmt: skip
