"""`lookalike backbones`: what suits a task, memory and speed, with licence."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence

from lookalike.commands.plan import CUDA_RUNTIME, parse_bytes
from lookalike.data.image_size import ImageSize, read_size
from lookalike.errors import ConfigError
from lookalike.log import logger
from lookalike.model.architecture import find_architecture, is_elsewhere
from lookalike.planning.backbone_facts import IMAGE_SIZE, known_facts, read_facts
from lookalike.planning.backbone_families import FAMILIES, TASKS
from lookalike.planning.backbone_list import SIZES, BackboneEntry, BackboneList, entry_of, keep
from lookalike.planning.gpus import known_machine

LICENCES = ("commercial", "open")
"""Licences that allow commercial use, under terms of their own too; those without such terms."""

_MOST = 100  # timm models of a pattern, each of which takes seconds to measure


def backbones(
    names: str | Sequence[str] = (),
    *,
    task: str | None = None,
    memory: str | int | None = None,
    size: str | None = None,
    licence: str | None = None,
    pretrained_only: bool = False,
    image_size: ImageSize = IMAGE_SIZE,
    batch_size: int = 64,
    classes: int = 1000,
    gpu: str | None = None,
) -> BackboneList:
    """Backbones for a task, within memory and licence, with the bytes that training each takes.

    Nothing is downloaded. The listed families answer at once at 224 px; other timm models and other
    sizes are measured on fake tensors, a few seconds each.

    Args:
        names: of backbones, as `model.backbone` takes them, or patterns of timm's (`convnext*`);
            by default the listed families.
        task: products, faces, animals or general: those with evidence for it, the best first.
        memory: the most that training may take, in bytes or as `8GB`; by default any.
        size: tiny (below 10 million parameters), small (40), base (120) or large.
        licence: `commercial`: weights whose licence allows it, under terms of its own too; `open`:
            without such terms.
        pretrained_only: without architectures that timm has no weights of.
        image_size: of the training, in pixels.
        batch_size: images of a step.
        classes: of the training.
        gpu: predict images a second for it, a key of `lookalike.planning.gpus.MACHINES`, and list
            what fits its memory.

    Raises:
        LookalikeError: a name, a choice or a size is wrong.
    """
    for option, value, choices in (
        ("--task", task, TASKS), ("--size", size, tuple(SIZES)), ("--licence", licence, LICENCES),
    ):  # fmt: skip
        if value is not None and value not in choices:
            raise ConfigError(f"{option} {value}: takes {', '.join(choices)}")
    for option, number in (("--batch-size", batch_size), ("--classes", classes)):
        if number < 1:
            raise ConfigError(f"{option} {number}: not a number above 0")
    try:
        image_size = read_size(image_size)
    except ValueError as error:
        raise ConfigError(f"--image-size {image_size}: {error}") from None
    machine = None if gpu is None else known_machine(gpu)
    limit = None if memory is None else parse_bytes(memory)
    if limit is None and machine is not None:
        limit = int(machine.memory) or None
    given = [names] if isinstance(names, str) else names
    if not isinstance(given, Sequence) or not all(isinstance(n, str) and n for n in given):
        raise ConfigError(f"names are {names!r}; give names of backbones: 'resnet50', 'convnext*'")
    chosen = _names(list(given))
    fresh = [name for name in chosen if image_size != IMAGE_SIZE or name not in known_facts()]
    if fresh:
        logger.info("measuring %d backbones, a few seconds each", len(fresh))
    entries = [
        entry_of(
            facts, batch_size=batch_size, classes=classes, runtime=CUDA_RUNTIME, machine=machine
        )
        for facts in read_facts(chosen, image_size)
    ]
    filters: dict[str, Callable[[BackboneEntry], bool]] = {}
    if task is not None:
        filters["task"] = lambda entry: task in entry.tasks
        entries.sort(key=lambda entry: entry.tasks[task].rank if task in entry.tasks else 0)
    if size is not None:
        filters["size"] = lambda entry: entry.size == size
    if licence is not None:
        allowed = ("yes",) if licence == "open" else ("yes", "terms")
        filters["licence"] = lambda entry: entry.commercial in allowed
    if pretrained_only:
        filters["pretrained"] = lambda entry: entry.facts.pretrained
    if limit is not None:
        most = limit
        filters["memory"] = lambda entry: entry.training_bytes <= most
    kept, omitted = keep(entries, filters)
    return BackboneList(
        entries=tuple(kept),
        task=task,
        batch_size=batch_size,
        classes=classes,
        image_size=image_size,
        limit=limit,
        machine=machine,
        omitted=omitted,
    )


def _names(asked: list[str]) -> list[str]:
    """The names that are meant: the listed ones, or those given and found by patterns."""
    if not asked:
        return [name for family in FAMILIES for name in family.members]
    import timm

    found: dict[str, None] = {}
    for name in asked:
        if is_elsewhere(name):
            raise ConfigError(f"{name}: give a name of timm, no repository and no folder")
        if not any(sign in name for sign in "*?["):
            find_architecture(name)
            found[name] = None
            continue
        listed = [n for family in FAMILIES for n in family.members]
        matching = [n for n in (*listed, *timm.list_models()) if fnmatch.fnmatch(n, name)]
        if not matching:
            raise ConfigError(f"{name}: matches no backbone; lookalike backbones lists some")
        if len(matching) > _MOST:
            raise ConfigError(
                f"{name}: matches {len(matching)} backbones and {_MOST} are listed at a time; give "
                "a narrower pattern"
            )
        found |= dict.fromkeys(matching)
    return list(found)
