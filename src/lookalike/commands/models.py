"""Models by their place: load, calibration, and the run and lists that they come from."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lookalike import storage
from lookalike.commands.run_lists import is_own, reading_of
from lookalike.config.config import Config
from lookalike.data.catalog import Catalog, open_catalog
from lookalike.data.classes import Classes
from lookalike.data.inputs import place_of
from lookalike.data.readers import read_records
from lookalike.data.readers.annotation import BY_CONTENT, ListLayout
from lookalike.data.readers.record_io import is_record_io
from lookalike.data.readers.shards import is_shards
from lookalike.data.record import Record
from lookalike.data.splits import TRAIN, select
from lookalike.distributed.world import World
from lookalike.errors import ConfigError, LookalikeError, RunError, StorageError
from lookalike.exporting.artefact import ABOUT_FILE, exported_from
from lookalike.exporting.exported import ExportedModel, load_onnx
from lookalike.log import logger
from lookalike.metrics.calibration import CALIBRATION_FILE, Calibration
from lookalike.model.embedder import Embedder
from lookalike.model.saved_model import CONFIG_FILE, WEIGHTS_FILE, is_as_described, read_saved
from lookalike.run import Run
from lookalike.storage import Place
from lookalike.storage.cache_folder import cache_entry
from lookalike.training.request_lists import annotation_options, open_catalogs
from lookalike.training.saved_lists import lists_named_by
from lookalike.training.setting_folders import used_config

_VERSIONS = ".versions.json"


def load(path: Place, *, device: str = "auto") -> Embedder | ExportedModel:
    """The embedder of a run, or an exported model, ready for `embed`.

    Args:
        path: an output directory, the folder `model` of one, or an exported `.onnx` file.
        device: auto, cpu or cuda; an exported model runs on the CPU by default.

    Raises:
        RunError: there is no model at `path`, or a broken one.
    """
    name = place_of("path", path)
    if storage.public(name).endswith(".onnx"):
        where = World.device_from_env("cpu" if device == "auto" else device)
        file = _local_copy(name) if storage.is_remote(name) else storage.local_path(name)
        return load_onnx(file, where)
    folder = model_folder(name)
    embedder = Embedder.load(folder, World.device_from_env(device))
    embedder.exported_from = exported_from(folder)
    return embedder


def check_model(path: Place) -> None:
    """Raise a RunError if there is no model at `path`, without loading it."""
    name = place_of("path", path)
    if not storage.public(name).endswith(".onnx"):
        model_folder(name)
    elif not storage.exists(name):
        raise RunError(f"{storage.public(name)}: no such file")


def model_folder(path: Place) -> Path:
    """The folder with the model of a run, or `path` if it is one; remote ones are fetched.

    Raises:
        RunError: there is no model, or its folder may not be entered.
    """
    name = os.fspath(path)
    folder = _model_copy(name) if storage.is_remote(name) else storage.path_of(name)
    try:
        if Run(folder).model.is_dir():
            return Run(folder).model
        found = (folder / CONFIG_FILE).exists()
    except PermissionError:
        raise RunError(f"{path}: cannot be read: permission denied") from None
    if not found and not folder.exists():
        raise RunError(f"{path}: no such file or folder; give a run or a model folder")
    if other := _other_form(folder):
        raise RunError(f"{path}: {other}; give the run, or its export as onnx or safetensors")
    if not found:
        raise RunError(f"{path}: neither a run nor a model folder (no model/{CONFIG_FILE})")
    return folder


def _other_form(place: Path) -> str:
    """Description of an export for other programs, a file or a folder; "" of anything else."""
    if place.suffix == ".pt2" and place.is_file():
        return "a torch.export program, which is not loaded here, as that unpickles"
    try:
        about = json.loads((place / ABOUT_FILE).read_bytes())
        return "an export for timm" if about["artefact"] == "timm" else ""
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def calibration_of(
    model: Place, embedder: Embedder | ExportedModel | None = None
) -> Calibration | None:
    """The calibration of a run, a model folder or, with its `embedder`, of an exported model.

    Raises:
        RunError: it is broken.
    """
    place = storage.public(os.fspath(model))
    if isinstance(embedder, ExportedModel):
        text = embedder.calibration
    else:
        place, text = _calibration_json(model) or (place, None)
    return None if text is None else Calibration.from_json(text, place)


def _calibration_json(model: Place) -> tuple[str, str] | None:
    """Place, for messages, and content of calibration.json of a run or a model folder."""
    for name in (str(Run.calibration), CALIBRATION_FILE):
        place = storage.join(os.fspath(model), name)
        content = storage.read_if_exists(place)
        if content is None:
            continue
        try:
            return storage.public(place), content.decode()
        except UnicodeDecodeError:
            raise RunError(f"{storage.public(place)}: not a calibration: no text") from None
    return None


def _model_copy(uri: str) -> Path:
    """Local copy of the model of a remote run, or of a remote model folder, kept up to date.

    Raises:
        RunError: there is no model.
        StorageError: the storage does not answer.
    """
    sizes = storage.sizes_below(uri)
    prefix = "model/" if "model/config.json" in sizes else ""
    if f"{prefix}config.json" not in sizes:
        raise RunError(f"{storage.public(uri)}: neither a run nor a model folder")
    folder = cache_entry("models", uri)
    for _ in range(2):  # a copy that is damaged here is downloaded again
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            _refresh(storage.join(uri, prefix + name), folder / name)
        if not _damaged(folder):
            break
        (folder / WEIGHTS_FILE).unlink()
    else:
        raise RunError(
            f"{storage.public(storage.join(uri, prefix + WEIGHTS_FILE))}: damaged: its bytes are "
            f"not those that {CONFIG_FILE} was written for; upload the model again"
        )
    if prefix + ABOUT_FILE in sizes:
        _refresh(storage.join(uri, prefix + ABOUT_FILE), folder / ABOUT_FILE)
    else:
        (folder / ABOUT_FILE).unlink(missing_ok=True)
    return folder


def _damaged(model: Path) -> bool:
    try:
        return not is_as_described(model, read_saved(model))
    except RunError:
        return False  # another fault, reported when it is loaded


def _local_copy(uri: str) -> Path:
    """Local copy of a remote file, such as an exported model, kept up to date.

    Raises:
        StorageError: it cannot be read.
    """
    folder = cache_entry("models", uri)
    local = folder / storage.public(uri).rsplit("/", 1)[-1]
    _refresh(uri, local)
    return local


def _refresh(uri: str, local: Path) -> None:
    note = local.parent / _VERSIONS
    versions = json.loads(note.read_text("utf-8")) if note.exists() else {}
    version = storage.version_of(uri)
    if local.exists() and versions.get(local.name) == version:
        return
    storage.fetch_file(uri, local)
    if storage.version_of(uri) != version:
        raise StorageError(f"{storage.public(uri)}: changed while it was read; try again")
    storage.write_text(note, json.dumps({**versions, local.name: version}))


@dataclass(frozen=True)
class ModelOrigin:
    """Run, settings and calibration that a model comes from.

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
    def of(cls, model: Place) -> ModelOrigin:
        """Of a local or remote run or model folder."""
        name = str(model)
        where = name if storage.is_remote(name) else storage.local_path(name)
        _, calibration = _calibration_json(where) or ("", None)
        return cls(storage.public(name), where, used_config(where), calibration)

    def labelled(
        self, data: str | None, format: str, split: str | None, layout: ListLayout
    ) -> tuple[Catalog, str]:
        """Images to measure on, those of `data` or the run's own, and the name of their list.

        A run without validation images is measured on its training images. `layout` is that
        of `data`, as in `reading_of`.

        Raises:
            LookalikeError: there is no list, or a wrong one.
        """
        if data is not None:
            reading = reading_of(data, format, self.config, layout=layout)
            return open_catalog(data, *reading, split=split), _name(data)
        if self.config is None:
            raise ConfigError(f"{self.place}: no run, so no list to measure on; give --data LIST")
        learned, held_out = self._lists("--data")
        asked = self.config.data
        if held_out is None:
            logger.warning(
                "%s has no validation list: the exported model is compared with the trained one on "
                "training images, whose scores do not hold for new images; --data LIST takes "
                "others", self.place,
            )  # fmt: skip
            return learned, f"{_names(asked.train)} (training images)"
        return held_out, _names(asked.val or asked.train)

    def learned(self, data: str | None, layout: ListLayout, *, instead: str) -> Sequence[Record]:
        """Training images of `data`, or the run's; `instead` is the flag of `data`.

        `layout` is that of `data`, as in `reading_of`, unless it is a list of the run.

        Raises:
            LookalikeError: there is no list, or a wrong one.
        """
        if data is not None:
            own = self.config is not None and is_own(self.config, data)
            form = reading_of(data, "auto", self.config, layout=BY_CONTENT if own else layout)
            records = read_records(data, *form)
            train = TRAIN if self.config is None else self.config.data.train_split
            return select(records, train, required=False)
        if self.config is None:
            raise ConfigError(f"{self.place}: no run, so no training images; give {instead} LIST")
        return self._lists(instead)[0].records

    def _lists(self, instead: str) -> tuple[Catalog, Catalog | None]:
        """Training and validation lists of the run; `instead` is a flag to replace them."""
        assert self.config is not None
        with lists_named_by(self.uri, self.config, instead=instead, name=self.place):
            return open_catalogs(self.config)

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
        return {
            "List": _names(data.train),
            "Start": start_text,
            "Loss": loss.describe(),
            "Length": f"{train.epochs} epochs at most, in batches of {train.batch_size}",
        }


def training_counts(model: Place) -> dict[str, int] | None:
    """Number of training images by label; None if the list is not available any more."""
    try:
        config = used_config(str(model))
        if config is None or config.data.train is None:
            return None
        train = config.data.train
        lists = [train] if isinstance(train, str) else train
        if any(is_shards(each) or is_record_io(each) for each in lists):
            logger.info("classes are counted in the gallery: files of images are not read for it")
            return None
        records = select(
            read_records(train, config.data.format, annotation_options(config)),
            config.data.train_split,
            required=False,
        )
        place = storage.join(str(model), "classes.json")
        text = storage.read_bytes(place)
    except LookalikeError as error:
        logger.info(
            "classes are counted in the gallery: the training list is not there (%s)", error
        )
        return None
    trained = Classes.from_json(text, storage.public(place)).rows  # without those held out
    counts = Counter(label for record in records for label in record.labels)
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
