"""The lists of a run, read by its settings where a command takes them."""

from __future__ import annotations

from dataclasses import replace

from lookalike import storage
from lookalike.commands.read_options import run_config, settings_among
from lookalike.config.config import Config
from lookalike.data.inputs import KnownLists, no_lists
from lookalike.data.readers import read_records
from lookalike.data.readers.annotation import (
    BY_CONTENT,
    JOINER,
    AnnotationOptions,
    ListLayout,
)
from lookalike.data.readers.path_patterns import expand_choices
from lookalike.data.record_table import RecordTable
from lookalike.errors import ConfigError
from lookalike.storage import Place
from lookalike.training.request_lists import annotation_options


def lists_of(run: Place, *, required: bool = False, layout: ListLayout = BY_CONTENT) -> KnownLists:
    """Reads the lists of a run as its training did: by `data.format`, `data.image_root`, ...

    The labels of an image that has several stay one text, as in the list.

    Args:
        run: or a model alone, which has no lists.
        required: `run` must be one.
        layout: as in `reading_of`.

    Raises:
        ConfigError: it is required, and there is no run, or its settings are broken.
    """
    try:
        config = run_config(run)
    except ConfigError:
        if required:
            raise
        return no_lists  # `ReadOptions.source` warns of it
    if config is None:
        if required:
            raise ConfigError(f"lists_of={run} (--lists-of) is no run of lookalike train")
        return no_lists
    options, format = annotation_options(config).with_layout(layout), config.data.format
    options = replace(options, label_separator=None, joiner=options.label_separator or JOINER)

    def known(place: str) -> RecordTable | None:
        return read_records(place, format, options) if is_own(config, place) else None

    return known


def joiner_of(run: Place) -> str:
    """The text between the labels of an image with several, where they are one text.

    Args:
        run: or a model or an export, which may lie in one.
    """
    config = settings_among([run])
    return (config and config.data.label_separator) or JOINER


def reading_of(
    place: str,
    format: str,
    config: Config | None,
    *,
    layout: ListLayout = BY_CONTENT,
    separator: str | None = None,
    coarser: tuple[str, ...] = (),
) -> tuple[str, AnnotationOptions]:
    """Format and options of reading a list of labelled images for the model of a run.

    A list of the run itself is read as its training read it, columns and image folder included;
    of another one only the separator of labels is the run's.

    Args:
        format: of the list, where it is not `auto`.
        config: settings of the run; None for a model alone.
        layout: what it names takes the place of the run's.
        separator: between the labels of an image, "" for none; None for the run's.
        coarser: columns of coarser classes.
    """
    own = config is not None and is_own(config, place)
    options = AnnotationOptions()
    if config is not None:
        options = AnnotationOptions(label_separator=config.data.label_separator)
        if own:
            options = annotation_options(config)
            format = config.data.format if format == "auto" else format
    if separator is not None:
        options = replace(options, label_separator=separator or None)
    return format, replace(options, coarser_columns=coarser).with_layout(layout)


def is_own(config: Config, place: str) -> bool:
    """True for a training or validation list of the run, in any spelling."""
    one = storage.canonicalizer()
    own = set(map(one, lists_in(config)))
    return own.issuperset(map(one, expand_choices(place)))


def lists_in(config: Config) -> list[str]:
    """The places of the training and validation lists; those of `{a,b}` one by one."""
    data = config.data
    given = [[lists] if isinstance(lists, str) else lists or () for lists in (data.train, data.val)]
    return [one for lists in given for pattern in lists for one in expand_choices(pattern)]
