"""List of backbones with what a training of each would take, filtered and in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from lookalike.data.image_size import ImageSize
from lookalike.planning.backbone_facts import EMBEDDING_DIM, BackboneFacts
from lookalike.planning.backbone_families import Claim, Family, commercial_use, family_of
from lookalike.planning.communication import communication
from lookalike.planning.gpus import Machine
from lookalike.planning.memory import memory
from lookalike.planning.run_spec import RunSpec
from lookalike.planning.timing import speed_on

SIZES: dict[str, int] = {"tiny": 10**7, "small": 4 * 10**7, "base": 12 * 10**7, "large": 10**12}
"""Parameters below which a backbone has this size."""


@dataclass(frozen=True)
class BackboneEntry:
    """One line of the list.

    Attributes:
        family: name of its family; "" for a timm model outside the families.
        pooling: of the published model, a `model.pooling`; "" where not known.
        tasks: evidence that it suits a task, by task; that of its family.
        commercial: `yes`, `terms`, `no` or `unknown`.
        training_bytes: the most that a worker needs at one time.
        images_per_second: in training, predicted; None without an accelerator to predict for.
    """

    facts: BackboneFacts
    family: str
    about: str
    pooling: str
    tasks: dict[str, Claim]
    commercial: str
    size: str
    training_bytes: int
    images_per_second: float | None


@dataclass(frozen=True)
class BackboneList:
    """Backbones, and the run that their bytes are of.

    Attributes:
        limit: bytes of memory that a listed one may need; None for any.
        omitted: backbones that a filter left out, and the filter.
    """

    entries: tuple[BackboneEntry, ...]
    task: str | None
    batch_size: int
    classes: int
    image_size: ImageSize
    limit: int | None
    machine: Machine | None
    omitted: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Everything but the measured profiles, in bytes, for JSON."""
        lines = []
        for line in map(asdict, self.entries):
            facts = line.pop("facts")
            del facts["profiles"]
            lines.append(facts | line)
        return {
            "backbones": lines,
            "task": self.task,
            "batch_size": self.batch_size,
            "classes": self.classes,
            "image_size": self.image_size,
            "embedding_dim": EMBEDDING_DIM,
            "memory": self.limit,
            "gpu": None if self.machine is None else self.machine.name,
            "omitted": self.omitted,
        }


def entry_of(
    facts: BackboneFacts, *, batch_size: int, classes: int, runtime: int, machine: Machine | None
) -> BackboneEntry:
    """One line, for a training on one GPU with AdamW in bfloat16.

    Args:
        runtime: bytes of a process before it has a model.
        machine: to predict images a second for.
    """
    family = family_of(facts.name) or Family(name="", about="", pooling="", members=())
    spec = RunSpec(
        classes=classes, images=None, steps_per_epoch=None, epochs=1, workers=1, batch=batch_size,
        image_size=facts.image_size, dim=EMBEDDING_DIM, product_bytes=2, narrow_network=True,
        optimizer="adamw", device="cuda",
    )  # fmt: skip
    network = facts.profile(batch_size)
    speed = None
    if machine is not None:
        speed = speed_on(spec, network, communication(spec, network), machine).images_per_second
    return BackboneEntry(
        facts=facts,
        family=family.name,
        about=family.about,
        pooling=family.pooling,
        tasks=family.tasks,
        commercial=commercial_use(facts.licence),
        size=size_of(facts.parameters),
        training_bytes=memory(spec, network, runtime).peak,
        images_per_second=speed,
    )


def size_of(parameters: int) -> str:
    """The name of a size."""
    return next(name for name, most in SIZES.items() if parameters < most)


def keep(
    entries: list[BackboneEntry], filters: dict[str, Callable[[BackboneEntry], bool]]
) -> tuple[list[BackboneEntry], dict[str, str]]:
    """The entries that pass, and by name the first filter that each other one failed."""
    kept, omitted = [], {}
    for entry in entries:
        failed = next((name for name, passes in filters.items() if not passes(entry)), None)
        if failed is None:
            kept.append(entry)
        else:
            omitted[entry.facts.name] = failed
    return kept, omitted
