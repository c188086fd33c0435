"""Class weights on disk: each worker writes its own rows, any number of workers reads them.

    head-<name>-<part>.safetensors
        header: start, stop    classes in the file, of `classes` in all
                centres        rows for each class
                margin         loss to which common.margin_state belongs
        weight                 (n, D) by class, `centres` rows each
        optimizer.<state>      (n, ...) momentum_buffer, exp_avg, exp_avg_sq, seen: a row for each
                               row of the weight; the same names for an optimizer of torch and for
                               the fused update
        common.<state>         the same in every file

Torch's distributed checkpoint with safetensors storage (torch 2.15) reshards such rows too, but
builds the whole file in memory before writing, ignores a missing shard silently, writes
overlapping rows silently unless the shards are those of torch.chunk, and cannot read the rows of
selected classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from lookalike.losses.class_weights import ClassWeights
from lookalike.losses.head_update import UpdateRule, create_update
from lookalike.training.optimizer import check_moments, name_of

BLOCK_BYTES = 2**25
"""Bytes of each tensor in memory at a time while rows are read."""


def file_name(head: str, part: int) -> str:
    """File of worker `part` for the head named `head`."""
    return f"head-{head}-{part:05d}.safetensors"


def content(
    head: ClassWeights, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name and header of this worker's file."""
    tensors: dict[str, Tensor] = {"weight": head.weight.detach()}
    if head.update is not None:
        rows, common = head.update.rows, dict(head.update.common)
    else:
        state = optimizer.state.get(head.weight, {})
        found = {key: value for key, value in state.items() if isinstance(value, Tensor)}
        rows = {key: value for key, value in found.items() if value.ndim}
        common = {key: value for key, value in found.items() if not value.ndim}
    common["margin_state"] = head.margin_state
    tensors |= {f"optimizer.{key}": value for key, value in rows.items()}
    tensors |= {f"common.{key}": value for key, value in common.items()}
    header = {
        "start": head.rows.start,
        "stop": head.rows.stop,
        "classes": head.num_classes,
        "centres": head.centres,
        "margin": head.loss_name,
    }
    return tensors, {key: str(value) for key, value in header.items()}


class _Part(NamedTuple):
    """An open file, and the classes in it."""

    file: Any
    classes: range


class HeadRows:
    """Rows of one head in a checkpoint, read in blocks. A context manager.

    Attributes:
        classes: number of classes of the head.
        centres: rows for each class.
        dim: D, length of a row of the weight.
        margin: name of the loss.
        names: `weight` and the states of the optimizer that each row has.
        common: states that are the same for all rows.
    """

    def __init__(self, folder: Path, head: str) -> None:
        """Open the files.

        Raises:
            FileNotFoundError: there are none.
            SafetensorError: one is broken.
            ValueError: together they do not hold each class once.
        """
        paths = sorted(folder.glob(f"head-{head}-*.safetensors"))
        if not paths:
            raise FileNotFoundError(2, "no file", file_name(head, 0))
        self._open = ExitStack()
        with ExitStack() as stack:
            files = [stack.enter_context(safe_open(path, framework="pt")) for path in paths]
            headers = [file.metadata() for file in files]
            parts = [
                _Part(file, range(int(header["start"]), int(header["stop"])))
                for file, header in zip(files, headers, strict=True)
            ]
            self._parts = sorted(parts, key=lambda part: (part.classes.start, part.classes.stop))
            self._describe(headers[0])
            held = 0
            for part in self._parts:
                if part.classes.start != held:
                    raise ValueError(
                        f"the files of head '{head}' do not hold the classes from {held} to "
                        f"{part.classes.start} once"
                    )
                held = part.classes.stop
            self.classes = int(headers[0].get("classes", held))
            if held != self.classes:
                raise ValueError(
                    f"the files of head '{head}' hold {held:,} of its {self.classes:,} classes"
                )
            self._open = stack.pop_all()

    def __enter__(self) -> HeadRows:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _describe(self, header: dict[str, str]) -> None:
        self.centres = int(header.get("centres", 1))
        self.margin = header.get("margin")
        self.names: list[str] = []
        self.common: dict[str, Tensor] = {}
        file = self._parts[0].file
        for key in file.keys():  # noqa: SIM118  # not a dict
            name = key.removeprefix("optimizer.").removeprefix("common.")
            if key.startswith("common.") or not file.get_slice(key).get_shape():
                self.common[name] = file.get_tensor(key)
            else:
                self.names.append(name)
        self.dim = int(file.get_slice("weight").get_shape()[1])

    @property
    def moments(self) -> set[str]:
        """Names of the optimizer's states, without the step counts."""
        return set(self.names) - {"weight", "seen"}

    @property
    def sampled(self) -> bool:
        """True if rows may have updates pending, as those of a sampled head."""
        return "seen" in self.names

    def read(
        self, classes: Tensor, rule: UpdateRule | None = None
    ) -> Iterator[tuple[slice, dict[str, Tensor]]]:
        """Read the rows of `classes` block by block.

        Args:
            classes: (m,) int64, ascending, each once.
            rule: applies the pending updates of a sampled head, by this optimizer; None to read
                rows as stored.

        Yields:
            A slice of `classes`, and their rows by name, (count * centres, ...) on the CPU.
        """
        step = max(1, BLOCK_BYTES // (4 * self.centres * self.dim))
        for part in self._parts:
            for start in range(part.classes.start, part.classes.stop, step):
                edges = torch.tensor([start, min(start + step, part.classes.stop)])
                low, high = torch.searchsorted(classes, edges).tolist()
                if low == high:
                    continue
                rows = self._block(part, classes[low:high])
                if rule is not None and self.sampled:
                    self._apply_pending(rows, rule)
                yield slice(low, high), rows

    def _block(self, part: _Part, classes: Tensor) -> dict[str, Tensor]:
        """Rows of `classes`, which are close together in one file."""
        first, last = int(classes[0]), int(classes[-1])
        start = (first - part.classes.start) * self.centres
        stop = (last + 1 - part.classes.start) * self.centres
        whole = len(classes) == last + 1 - first
        found = {}
        for name in self.names:
            key = name if name == "weight" else f"optimizer.{name}"
            rows = part.file.get_slice(key)[start:stop]
            if not whole:
                rows = rows.unflatten(0, (-1, self.centres))[classes - first].flatten(0, 1)
            found[name] = rows
        return found

    def _apply_pending(self, rows: dict[str, Tensor], rule: UpdateRule) -> None:
        weight = rows["weight"]
        update = create_update(rule, weight, lazy=True, seed=0)
        for name in [*update.MOMENTS, "seen"]:
            setattr(update, name, rows[name])
        update.clock, update.table = self.common["clock"], self.common["table"]
        update.restored()
        values = update.current_rows(weight, torch.arange(len(weight)))
        rows |= dict(zip(["weight", *update.MOMENTS], values, strict=True))


@torch.no_grad()
def load_head(
    folder: Path, name: str, head: ClassWeights, optimizer: torch.optim.Optimizer, *, steps: int
) -> None:
    """Load this worker's rows and their optimizer state, in place.

    Args:
        head: its state is loaded into `head.update`, or else into `optimizer`.
        optimizer: of its weight, where `head.update` is None.
        steps: optimizer steps done, for files without a count.

    Raises:
        FileNotFoundError: no file holds this head.
        SafetensorError: a file is broken.
        ValueError: the rows do not fit the head.
    """
    with HeadRows(folder, name) as saved:
        _check_fits(saved, name, head)
        rule = _rule(head, optimizer)
        check_moments(saved.moments, rule.name)
        lazy = head.update is not None and head.update.lazy
        steps = int(saved.common.get("step", saved.common.get("clock", torch.tensor(steps))))
        targets: dict[str, Tensor] = {"weight": head.weight}
        if head.update is not None:
            targets |= head.update.rows
            if lazy and not saved.sampled:
                head.update.rows["seen"].fill_(steps)
        else:
            state = {key: torch.zeros_like(head.weight) for key in saved.moments}
            targets |= state
            if "exp_avg" in state:
                state["step"] = torch.tensor(float(steps), device=head.weight.device)
            if state:
                optimizer.state[head.weight] = state
        classes = torch.arange(head.rows.start, head.rows.stop)
        for where, rows in saved.read(classes, None if lazy else rule):
            span = slice(where.start * head.centres, where.stop * head.centres)
            for key in targets.keys() & rows.keys():
                targets[key][span] = rows[key].to(targets[key].device)
        load_margin_state(saved, head)
        if head.update is not None:
            head.update.common["clock"].fill_(steps)
            if lazy and saved.sampled:
                head.update.common["table"].copy_(saved.common["table"])
            head.update.restored()


@torch.no_grad()
def load_margin_state(saved: HeadRows, head: ClassWeights) -> None:
    """Load the running statistics of the same loss; another one starts anew."""
    if saved.margin == head.loss_name:
        head.margin_state.copy_(saved.common["margin_state"])


def _check_fits(saved: HeadRows, name: str, head: ClassWeights) -> None:
    for what, found, wanted in (
        ("classes", saved.classes, head.num_classes),
        ("centres a class", saved.centres, head.centres),
        ("numbers a centre", saved.dim, head.dim),
    ):
        if found != wanted:
            raise ValueError(f"head '{name}' has {found} {what}, and not {wanted}")


def _rule(head: ClassWeights, optimizer: torch.optim.Optimizer) -> UpdateRule:
    if head.update is not None:
        return head.update.rule
    if name_of(optimizer) == "sgd":
        return UpdateRule("sgd")
    momentum, beta2 = optimizer.param_groups[0]["betas"]
    return UpdateRule("adamw", momentum, beta2=beta2)
