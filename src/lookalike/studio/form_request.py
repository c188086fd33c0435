"""From the texts of the form to a checked request, with the messages of the command line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from lookalike import storage
from lookalike.config.config import Config, keys
from lookalike.config.yaml_lines import write_yaml
from lookalike.errors import ConfigError
from lookalike.studio.component_form import COMPUTING_MODE, REQUIRED, is_path
from lookalike.studio.roots import Roots, is_object

_MOST_SIGNS = 100_000


@dataclass
class FormRequest:
    """A request of the form.

    Attributes:
        config: None where a field is wrong.
        errors: a line by the key of its field; "" for those of no single field.
    """

    values: Mapping[str, str]
    config: Config | None = None
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def yaml(self) -> str:
        """The request as a file, without secrets in addresses."""
        if self.config is None:
            return ""
        return self.config.without_secrets().to_yaml(complete=False)

    @property
    def command(self) -> str:
        """The same on the command line."""
        if self.config is None:
            return ""
        config = self.config.without_secrets()
        words = ["lookalike", "train"]
        for key in sorted(config.asked()):
            value = config.get(key)
            plain = list(value) if isinstance(value, tuple) else value
            words.append(f"{key}={write_yaml(plain, flow=True)}")
        return shlex.join(words)


def read_form(values: Mapping[str, str], roots: Roots, *, complete: bool = False) -> FormRequest:
    """The request of a form's texts; empty ones are not asked for.

    Args:
        values: by dotted key; other names are ignored.
        complete: what a run cannot start without must be there.
    """
    known = keys()
    given = {
        key: text.strip().replace("\r\n", "\n")
        for key, text in values.items()
        if key in known and text.strip()
    }
    found = FormRequest(dict(values))
    settings: dict[str, object] = {}
    for key, text in given.items():
        try:
            settings[key] = _value(key, text, roots)
        except ConfigError as error:
            found.errors[key] = str(error)
    mode, workers = values.get(COMPUTING_MODE, ""), settings.get("run.workers", 1)
    if mode == "standalone" and workers != 1:
        found.errors["run.workers"] = (
            f"run.workers={workers} is for the computing mode distributed; choose it, or leave "
            "this empty"
        )
    for key in REQUIRED if complete else ():
        if key not in given:
            found.errors[key] = f"{key} is required"
    if found.errors:
        return found
    try:
        found.config = Config.load(flags=settings)
    except ConfigError as error:
        for line in str(error).splitlines():
            key = next((key for key in given if re.match(rf"{re.escape(key)}\b", line)), "")
            found.errors[key] = line
    return found


def _value(key: str, text: str, roots: Roots) -> object:
    """The checked value of one field.

    Raises:
        ConfigError: it cannot be, or names a path that is not permitted.
    """
    if len(text) > _MOST_SIGNS:
        raise ConfigError(f"{key}: more than {_MOST_SIGNS:,} characters")
    if key in ("data.train", "data.val"):
        places = [_existing(key, line.strip(), roots) for line in text.split("\n") if line.strip()]
        return places[0] if len(places) == 1 else places
    if key == "data.classes" and text.startswith("["):
        return Config.load(overrides=[f"{key}={text}"]).get(key)
    if is_path(key, text):
        if is_object(text) or key in (
            "run.output", "run.workdir", "data.cache", "train.cache_features",
        ):  # fmt: skip
            return roots.place(text)
        return _existing(key, text, roots)
    if key == "model.backbone":
        kind, colon, folder = text.partition(":")
        if colon and kind == "local-dir":
            return f"local-dir:{_existing(key, folder, roots)}"
        return Config.load(flags={key: text}).get(key)
    if keys()[key][0] == "str":
        Config.load(flags={key: text})
        return text
    return Config.load(overrides=[f"{key}={text}"]).get(key)


def _existing(key: str, text: str, roots: Roots) -> str:
    place = roots.place(text)
    if not storage.is_remote(place) and not storage.path_of(place).exists():
        raise ConfigError(f"{key}={text!r}: no such file or folder below the roots")
    return place
