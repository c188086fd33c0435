"""Fields of a node's settings, and the values of their texts."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

from lookalike.config.config import Config, described, key_of, keys
from lookalike.config.yaml_lines import read_value, write_yaml
from lookalike.errors import ConfigError
from lookalike.studio.component_form import COMPUTING_MODE, FormField, field_of, form_fields
from lookalike.workflow.node_kinds import KINDS

_SHOWN_AT_ONCE = 8  # settings of a command
_OF_READING = (
    *("threads", "cache", "cache_size", "requests", "allow_truncated"),
    *("path_column", "label_column", "image_root"),
)


@cache
def node_fields(uses: str) -> tuple[FormField, ...]:
    """The fields of a kind of node, by dotted key where they are those of training.

    What a training writes lies in the folder of the node, so that no directory is required.
    """
    kind = KINDS[uses]
    if kind.settings is Config:
        return tuple(
            dataclasses.replace(field, is_required=False)
            for field in form_fields()
            if field.key != COMPUTING_MODE
        )
    facts = described(kind.settings.model_fields)
    names = sorted(facts, key=lambda name: name in _OF_READING)
    return tuple(
        dataclasses.replace(
            field_of(name, facts[name]),
            tab="",
            is_popular=name not in _OF_READING and at < _SHOWN_AT_ONCE,
            is_required=uses == "read" and name == "list",
        )
        for at, name in enumerate(names)
    )


def setting_key(uses: str, path: tuple[str, ...]) -> str:
    """The key of the field of a setting, given by its path in `with`; the path itself if none."""
    spelled = ".".join(path)
    if KINDS[uses].settings is not Config or spelled in keys():
        return spelled
    try:
        return key_of(spelled)
    except ConfigError:
        return spelled


def text_of(value: Any) -> str:
    """The text of a field: YAML on one line; several lists, one on each line."""
    if isinstance(value, str):
        return value if _read(value) == value else write_yaml(value, flow=True)
    return write_yaml(value, flow=True)


def value_of(uses: str, key: str, text: str) -> Any:
    """The value that a text means; `text_of` of a value gives it back.

    In a field of plain text everything is text, but null.
    """
    text = text.strip()
    if key in ("data.train", "data.val") and "\n" in text:
        return [line.strip() for line in text.splitlines() if line.strip()]
    value = _read(text)
    known = {field.key: field for field in node_fields(uses)}.get(key)
    is_text = known is not None and (
        known.kind in ("str", "NoneType") or (bool(known.choices) and known.kind != "bool")
    )
    return text if is_text and not (value is None or isinstance(value, str)) else value


def _read(text: str) -> Any:
    """The value of YAML; the text itself where it is none, as a pattern of lists."""
    try:
        return read_value(text)
    except ValueError:
        return text
