"""Provenance of a model: its run, and the lists that it was trained and measured on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lookalike import storage
from lookalike.config.config import Config
from lookalike.data.catalog import Catalog, build_catalog
from lookalike.data.classes import Classes
from lookalike.data.readers import read_records
from lookalike.data.readers.shards import is_shards
from lookalike.data.record import Record
from lookalike.data.splits import measured_split, select
from lookalike.errors import (
    ConfigError,
    CredentialsError,
    LookalikeError,
    StorageError,
    UnavailableError,
)
from lookalike.log import logger
from lookalike.metrics.calibration import CALIBRATION_FILE
from lookalike.storage import Place
from lookalike.training.build import annotation_options, open_catalogs
from lookalike.training.remote_run import read_file, saved_config


@dataclass(frozen=True)
class Provenance:
    """Origin of a model.

    Attributes:
        place: the run or the model folder, for messages.
        uri: the same as a local path or a URI.
        config: settings of its training; None for a model folder.
        calibration: content of calibration.json; None without one.
    """

    place: str
    uri: str
    config: Config | None
    calibration: str | None

    @classmethod
    def of(cls, model: Place) -> Provenance:
        """Provenance of a local or remote run or model folder."""
        name = str(model)
        where = name if storage.is_remote(name) else storage.local_path(name)
        config = saved_config(where)
        folder = where if config is None else storage.join(where, "model")
        calibration = read_file(folder, CALIBRATION_FILE)
        return cls(
            place=storage.public(name),
            uri=where,
            config=config,
            calibration=None if calibration is None else calibration.decode(),
        )

    def labelled(self, data: str | None, format: str, split: str | None) -> tuple[Catalog, str]:
        """Images to measure on, those of `data` or the run's own, and the name of their list.

        A run without validation images is measured on its training images.

        Raises:
            LookalikeError: there is no list, or a wrong one.
        """
        if data is not None:
            records = read_records(data, format)
            return build_catalog(select(records, split or measured_split(records))), _name(data)
        if self.config is None:
            raise ConfigError(f"{self.place}: no run, so no list to measure on; give --data LIST")
        learned, held_out = self._lists("--data")
        asked = self.config.data
        if held_out is None:
            logger.warning(
                "%s has no validation list: the exported model is compared with the trained one on "
                "training images, whose scores say nothing about new images; --data LIST takes "
                "others", self.place,
            )  # fmt: skip
            return learned, f"{_names(asked.train)} (training images)"
        return held_out, _names(asked.val or asked.train)

    def learned(self, data: str | None, format: str, *, instead: str) -> tuple[Record, ...]:
        """Images of `data`, or the run's training images; `instead` is the flag of `data`.

        Raises:
            LookalikeError: there is no list, or a wrong one.
        """
        if data is not None:
            return tuple(read_records(data, format))
        if self.config is None:
            raise ConfigError(f"{self.place}: no run, so no training images; give {instead} LIST")
        return self._lists(instead)[0].records

    def _lists(self, instead: str) -> tuple[Catalog, Catalog | None]:
        """Training and validation lists of the run; `instead` is a flag to replace them."""
        assert self.config is not None
        try:
            return open_catalogs(self.config)
        except (CredentialsError, UnavailableError):
            raise
        except StorageError as error:
            raise StorageError(
                f"{error}; {self.place} names it, relative to the folder where it was trained: "
                f"run this there, or give {instead} LIST"
            ) from None

    def facts(self) -> dict[str, str]:
        """Summary of the training, without paths of this machine."""
        if self.config is None:
            return {}
        data, loss, train = self.config.data, self.config.loss, self.config.train
        start = self.config.model.pretrained
        if isinstance(start, str):
            start_text = f"the weights {_name(start)}"
        else:
            start_text = "timm's pretrained weights" if start else "random weights"
        words: list[str] = [loss.name]
        if loss.margin is not None and loss.scale is not None:
            words += [f"margin {loss.margin:g}", f"scale {loss.scale:g}"]
        return {
            "List": _names(data.train),
            "Start": start_text,
            "Loss": ", ".join(words),
            "Length": f"{train.epochs} epochs at most, in batches of {train.batch_size}",
        }


def training_counts(model: Place) -> dict[str, int] | None:
    """Number of training images by label; None if the list is not available any more."""
    try:
        config = saved_config(str(model))
        if config is None or config.data.train is None:
            return None
        train = config.data.train
        if any(map(is_shards, [train] if isinstance(train, str) else train)):
            logger.info("classes are counted in the gallery: training shards are not read for it")
            return None
        records = select(
            read_records(train, config.data.format, annotation_options(config)),
            config.data.train_split,
        )
        place = storage.join(str(model), "classes.json")
        text = storage.read_bytes(place)
    except LookalikeError as error:
        logger.info(
            "classes are counted in the gallery: the training list is not there (%s)", error
        )
        return None
    trained = Classes.from_json(
        text, storage.public(place)
    ).rows  # without those that were held out
    counts = Counter(record.label for record in records)
    if trained.keys().isdisjoint(counts):  # integers, which are rows of the names
        return dict(counts)
    return {label: count for label, count in counts.items() if label in trained}


def _names(uri: str | Sequence[str] | None) -> str:
    """Last parts of one place or several."""
    places = [uri] if isinstance(uri, str) else list(uri or ())
    return ", ".join(map(_name, places))


def _name(uri: str) -> str:
    """Last part of a place: the part that may be published."""
    return storage.public(uri).rstrip("/").rsplit("/", 1)[-1]
