"""PIL plugins for HEIC and JPEG XL, registered with the first image of their format."""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

_lock = threading.Lock()


def _heif() -> None:
    import_module("pillow_heif").register_heif_opener()


def _jxl() -> None:
    import_module("pillow_jxl")  # registers itself


# By `format_of`: package, extra of pyproject.toml, PIL's name of the format, registration.
_PLUGINS: dict[str, tuple[str, str, str, Callable[[], None]]] = {
    "HEIC": ("pillow_heif", "heif", "HEIF", _heif),
    "JPEG XL": ("pillow_jxl", "jxl", "JXL", _jxl),
}
_registered: set[str] = set()


def has_plugin(name: str) -> bool:
    """True if the format `name` is read by a plugin that is installed."""
    return name in _PLUGINS and find_spec(_PLUGINS[name][0]) is not None


def is_plugin_format(name: str) -> bool:
    """True if the format `name` is read by a plugin, installed or not."""
    return name in _PLUGINS


def missing(name: str) -> str:
    """The fix for a format whose plugin is not installed."""
    return f"install its reader: pip install 'lookalike[{_PLUGINS[name][1]}]'"


def register(name: str) -> str:
    """Have PIL read the format `name`; PIL's name of it.

    Raises:
        ImportError: the plugin is installed, but does not load.
    """
    _, _, pil_name, begin = _PLUGINS[name]
    with _lock:
        if name not in _registered:
            begin()
            _registered.add(name)
    return pil_name
