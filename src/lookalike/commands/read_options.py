"""Options of reading tables and images that the commands on trained models have in common."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypedDict

from lookalike import storage
from lookalike.config.config import Config
from lookalike.data.loading.image_source import Source
from lookalike.data.readers.annotation import ListLayout
from lookalike.errors import ConfigError, check_fields, check_integer
from lookalike.log import logger
from lookalike.run import EXPORTS, Run
from lookalike.storage import Place
from lookalike.training.request_lists import create_source
from lookalike.training.setting_folders import used_config


class ReadKeywords(TypedDict, total=False):
    """The fields of `ReadOptions` as keywords of a command."""

    threads: int
    cache: Place | None
    cache_size: str | None
    requests: int | None
    allow_truncated: bool | None
    path_column: str | None
    label_column: str | None
    image_root: str | None
    device: str


class SearchedKeywords(TypedDict, total=False):
    """Layout of the lists of queries, as keywords of `search`; by default that of all lists.

    Attributes:
        query_path_column: as `path_column`; "" to find it by name and content.
        query_image_root: as `image_root`; "" for the folder of each list.
    """

    query_path_column: str | None
    query_image_root: str | None


class QueryKeywords(SearchedKeywords, total=False):
    """The same with labels, as keywords of `evaluate` and `compare`.

    Attributes:
        query_label_column: as `label_column`; "" to find it by name.
    """

    query_label_column: str | None


@dataclass(frozen=True)
class ReadOptions:
    """Options of reading tables and images, and the device of the model.

    Attributes:
        threads: threads that read and decode, for each worker.
        cache: a folder of this machine that caches remote images; that of the run by
            default, where this machine has it.
        cache_size: the most that lies there, as "50GB"; that of the run by default.
        requests: for remote images at a time, for each worker; as in the run by default.
        allow_truncated: accept JPEGs without their end; as in the run by default.
        path_column: the column of images in the tables that are given; found by name and content
            by default.
        label_column: the column of labels in them; found by name by default.
        image_root: the folder or URI at which relative paths in lists start; by default the
            folder of each.
        device: auto, cpu or cuda.

    Raises:
        ConfigError: a field is not of its type, or `threads` is below 0.
    """

    threads: int = 4
    cache: Place | None = None
    cache_size: str | None = None
    requests: int | None = None
    allow_truncated: bool | None = None
    path_column: str | None = None
    label_column: str | None = None
    image_root: str | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        check_fields(self)
        check_integer("threads", self.threads, 0)

    @property
    def layout(self) -> ListLayout:
        """The layout of the lists that are given."""
        return ListLayout(self.path_column, self.label_column, self.image_root)

    def query_layout(self, given: Mapping[str, Any]) -> ListLayout:
        """The layout of the lists of queries: what `QueryKeywords` name, else that of all lists.

        Raises:
            ConfigError: a value is no text.
        """
        values = {}
        for name in asdict(self.layout):
            value = given.get(f"query_{name}")
            if value is None:
                continue
            if not isinstance(value, str):
                raise ConfigError(f"query_{name}={value!r} must be a text or None")
            values[name] = value
        return replace(self.layout, **values)

    def source(self, models: Sequence[Place]) -> Source:
        """The bytes of images, read by these options, or as in training where they are open.

        Args:
            models: runs, model folders or exported files; see `settings_among`.

        Raises:
            ConfigError: a value is wrong, or a size comes without a cache.
        """
        config = settings_among(models) or Config()
        there = config.data.cache
        if self.cache is None and there is not None and not storage.path_of(there).is_dir():
            config = config.with_values({"data.cache": None})  # of the machine that trained it
        given: dict[str, Any] = {
            "data.threads": self.threads,
            "data.cache": None if self.cache is None else os.fspath(self.cache),
            "data.cache_size": self.cache_size,
            "data.requests": self.requests,
            "data.allow_truncated": self.allow_truncated,
        }
        config = config.with_values({key: v for key, v in given.items() if v is not None})
        if self.cache_size is not None and config.data.cache is None:
            raise ConfigError(
                f"cache_size={self.cache_size} (--cache-size), but there is no cache; give its "
                "folder (--cache DIR)"
            )
        return create_source(config)

    def flags(self) -> Iterator[str]:
        """The same as arguments of the command line."""
        yield from ("--threads", str(self.threads), "--device", self.device)
        for name in ("cache", "cache_size", "requests", *asdict(self.layout)):
            if (value := getattr(self, name)) is not None:
                yield from (f"--{name.replace('_', '-')}", str(value))
        if self.allow_truncated is not None:
            yield "--allow-truncated" if self.allow_truncated else "--no-allow-truncated"


def check_query_layout(given: Mapping[str, Any], queries: object, flag: str) -> None:
    """Raise a ConfigError if a layout of queries is given, but no queries, as by `flag`."""
    for name, value in given.items():
        if value is not None and not queries:
            raise ConfigError(
                f"{name}={value!r} (--{name.replace('_', '-')}) is of queries: give {flag}"
            )


def check_layout(layout: ListLayout, table: Place | None, flag: str) -> None:
    """Raise a ConfigError if a layout is given, but no list that has it, as by `flag`."""
    for name, value in asdict(layout).items():
        if value is not None and table is None:
            raise ConfigError(
                f"{name}={value!r} (--{name.replace('_', '-')}) is of a list: give {flag}"
            )


def run_config(model: Place) -> Config | None:
    """The settings of a run; None for another model.

    Raises:
        ConfigError: their file is broken.
    """
    name = str(model)
    if storage.public(name).endswith(".onnx"):
        return None
    return used_config(name if storage.is_remote(name) else storage.local_path(name))


def settings_among(models: Iterable[Place]) -> Config | None:
    """The settings of the first run among models; else of one around a model or an export."""
    given = [os.fspath(model) for model in models]
    places = [*given, *filter(None, map(_run_around, given))]
    return next(filter(None, map(settings_of, places)), None)


def _run_around(model: str) -> str:
    """The run whose folder `model` or `start`, or one of whose exports, this would be; or ""."""
    name = (model if storage.is_remote(model) else storage.absolute(model)).rstrip("/")
    parent, _, last = name.rpartition("/")
    above, _, folder = parent.rpartition("/")
    return (
        parent if last in (Run.model.name, Run.start.name) else above if folder == EXPORTS else ""
    )


def settings_of(model: Place) -> Config | None:
    """The settings of a run; None for another model, or where they cannot be read."""
    try:
        return run_config(model)
    except ConfigError as error:
        logger.warning("%s; images and lists are read by the defaults, and without a cache", error)
        return None
