"""Training on stored features while the backbone is frozen, by `train.cache_features`."""

from __future__ import annotations

import sys
from pathlib import Path

from lookalike import storage
from lookalike.config.config import Config
from lookalike.data.image_size import size_text
from lookalike.data.loading.image_source import Source
from lookalike.distributed.world import World
from lookalike.errors import ConfigError
from lookalike.log import counted, logger
from lookalike.model.frozen_features import FrozenFeatures
from lookalike.model.training_network import TrainingNetwork
from lookalike.run import Run
from lookalike.training.build_heads import DTYPES
from lookalike.training.checkpoint import Progress
from lookalike.training.parts import TrainingParts
from lookalike.training.request_lists import reading_options


def check_cache_features(config: Config) -> None:
    """Check `train.cache_features` against the other settings.

    Raises:
        ConfigError: the backbone is never frozen, settings would have no effect, or the folder is
            not one of this machine.
    """
    train = config.train
    if not train.cache_features:
        return
    place = train.cache_features if isinstance(train.cache_features, str) else "true"
    asked = f"train.cache_features={storage.public(place)}"
    if not (train.freeze_backbone or train.freeze_backbone_epochs):
        raise ConfigError(
            f"{asked} keeps the features of a frozen backbone; set train.freeze_backbone=true, or "
            "train.freeze_backbone_epochs=N for the first N epochs, or leave it out"
        )
    if storage.is_remote(place):
        raise ConfigError(
            f"{asked}: features are mapped into memory; give a folder of this machine, or true"
        )
    if train.freeze_backbone:
        for key, value in without_effect(config).items():
            raise ConfigError(
                f"{key}={value} has no effect with {asked}, which passes each image through the "
                "frozen backbone once, as in evaluation; leave one of them out"
            )


def without_effect(config: Config) -> dict[str, object]:
    """Settings of the training images, by key, that stored features leave without effect."""
    data, model = config.data, config.model
    found = {
        "data.augment": list(data.augment),
        "data.color_jitter": data.color_jitter,
        "data.grayscale": data.grayscale,
        "data.repeats": data.repeats if data.repeats > 1 else 0,
        "model.train_size": model.train_size and size_text(model.train_size),
    }
    return {key: value for key, value in found.items() if value}


def use_frozen_features(
    parts: TrainingParts, config: Config, run: Run, progress: Progress, world: World, source: Source
) -> None:
    """Compute the features that are missing on disk, and have the epochs read them.

    Called by all workers together, once the weights are loaded; does nothing where no epoch with
    a frozen backbone is left.

    Raises:
        DataError: more images are bad than the limit allows.
        StorageError: the folder of the features cannot be written to.
        NotFiniteError: the backbone gives features that are not finite.
    """
    loader, train = parts.loader, config.train
    frozen_epochs = sys.maxsize if train.freeze_backbone else train.freeze_backbone_epochs
    if progress.step + progress.shift >= frozen_epochs * loader.steps_per_epoch:
        return
    if not train.cache_features:
        if train.freeze_backbone:
            logger.info(
                "every epoch passes all images through the frozen backbone; "
                "train.cache_features=true does it once, without augmentation"
            )
        return
    folder = run.features
    if isinstance(train.cache_features, str):
        folder = Path(storage.local_path(train.cache_features)).expanduser().absolute()
    network, validator = parts.trained.network, parts.validator
    assert isinstance(network, TrainingNetwork)
    # A part keeps which images were not read in time.
    options = {**reading_options(config), "image_timeout": config.data.image_timeout}
    records = loader.catalog.records
    features = FrozenFeatures(
        network.embedder, records, folder, poolings=network.poolings,
        list_id=parts.inputs.train_list, precision=DTYPES[train.precision], options=options,
    )  # fmt: skip
    logger.info(
        "features: %s through the frozen backbone once, as in evaluation: %s, %.3g GB",
        counted(len(records), "image"), features.parts.folder, features.parts.nbytes / 1e9,
    )  # fmt: skip
    bad = parts.bad_images
    features.compute(bad=bad.bad, world=world, source=source)
    bad.gather()
    loader.use_features(features.parts, frozen_epochs)
    if validator is not None:
        records = validator.catalog.records
        # Measurements are in float32, whatever the precision of training.
        validator.features = FrozenFeatures(
            network.embedder, records, folder, poolings=network.embedder.neck.poolings,
            list_id=parts.inputs.val_list, options=options,
        )  # fmt: skip
        validator.features.compute(
            bad=validator.bad, world=world, source=source,
            what="validation features",
        )  # fmt: skip
