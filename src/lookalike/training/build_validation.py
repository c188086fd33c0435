"""What measures the model of a run: after epochs, and at its end for the threshold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lookalike.config.config import Config
from lookalike.data.catalog import Catalog
from lookalike.data.loading.bad_images import describe_bad
from lookalike.data.loading.image_source import Source
from lookalike.data.readers.path_patterns import shown
from lookalike.distributed.world import World
from lookalike.errors import DataError
from lookalike.log import logger
from lookalike.losses.head import Head
from lookalike.metrics.calibration import Calibration
from lookalike.model.embedder import Embedder
from lookalike.training.validation import Validator, calibrate_on, summary


def create_measure(
    embedder: Embedder,
    head: Head,
    held_out: Catalog | None,
    catalog: Catalog,
    config: Config,
    world: World,
    source: Source,
    val_list: str = "",
) -> Callable[[], tuple[float, dict[str, Any]]] | None:
    """Measurement of the embedder on the validation set; None without one.

    Its records name the set by `val_list`, the fingerprint of its list.
    """
    if held_out is None:
        return None
    validator = Validator(
        held_out,
        in_training(held_out, catalog),
        threads=config.data.threads,
        world=world,
        source=source,
    )
    named: set[int] = set()

    def measure() -> tuple[float, dict[str, Any]]:
        scores, record = validator.measure(embedder, head)
        for row, reason in validator.bad.reasons.items():
            if row not in named:
                named.add(row)
                logger.warning("left out: %s", describe_bad(held_out.records[row], reason))
        logger.info("validation: %s", summary(scores))
        return scores.primary[1], {**record, "val_list": val_list}

    return measure


def calibrate_model(
    folder: Path,
    held_out: Catalog | None,
    catalog: Catalog,
    config: Config,
    world: World,
    images: Source,
) -> Calibration | None:
    """The calibration of the model that was kept in `folder`, on the validation set.

    None, with the reason said, where there is no validation set, or one that is too small.
    """
    if held_out is None:
        logger.info("no threshold was measured: there is no validation set")
        return None
    world.barrier()  # the main worker has written the model
    data = config.data
    held = f"{data.val_fraction:g} of the classes of {shown(data.train)}"
    source = f"validation set: {shown(data.val) or held}"
    try:
        return calibrate_on(
            Embedder.load(folder, world.device),
            held_out,
            in_training(held_out, catalog),
            threads=data.threads,
            source=source,
            chose_checkpoint=True,
            world=world,
            images=images,
        )
    except DataError as error:
        logger.warning("%s", error)
        return None


def in_training(held_out: Catalog, catalog: Catalog) -> torch.Tensor:
    """The training class of each class of `held_out`, (classes,) int64; -1 where it is new.

    Where `data.classes` gave the integers of the training list names, the validation list has
    the same integers.
    """
    rows = catalog.classes.rows
    if catalog.records[0].label not in rows:  # integers are rows of the names: all of them
        rows = {str(row): row for row in range(len(catalog.classes))}
    return torch.tensor([rows.get(name, -1) for name in held_out.classes.names])
