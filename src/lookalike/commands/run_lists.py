"""The lists of a run, read by its settings where a command takes them as images."""

from __future__ import annotations

from lookalike.commands.read_options import run_config
from lookalike.data.inputs import KnownLists, no_lists
from lookalike.data.readers import read_records
from lookalike.data.readers.path_patterns import expand_choices
from lookalike.data.record_table import RecordTable
from lookalike.errors import ConfigError
from lookalike.index.sync import absolute
from lookalike.storage import Place
from lookalike.training.build import annotation_options


def lists_of(run: Place, *, required: bool = False) -> KnownLists:
    """Reads the lists of a run as its training did: by `data.format`, `data.image_root`, ...

    Args:
        run: or a model alone, which has no lists.
        required: `run` must be one.

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
    data = config.data
    given = [[lists] if isinstance(lists, str) else lists or () for lists in (data.train, data.val)]
    own = {absolute(one) for lists in given for place in lists for one in expand_choices(place)}
    options = annotation_options(config)

    def known(place: str) -> RecordTable | None:
        if absolute(place) not in own:
            return None
        return read_records(place, data.format, options)

    return known
