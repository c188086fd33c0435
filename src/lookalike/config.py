"""The whole request: the sections of `lookalike.settings` together.

The texts there feed `lookalike train --help`, docs/parameters.md and the JSON schema. A `Config` is
frozen; `Config.load` builds it from a file, flags and dotted overrides, and the verbs resolve
what was left open into a new one.
"""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError, model_validator

from lookalike import storage
from lookalike.errors import ConfigError
from lookalike.settings import (
    MODEL_PARALLEL_LOSSES,
    DataConfig,
    HeadConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    Section,
    TrainConfig,
)


class Config(Section):
    """The whole request."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    head: HeadConfig = HeadConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    run: RunConfig = RunConfig()

    @model_validator(mode="before")
    @classmethod
    def _model_parallel_losses(cls, value: Any) -> Any:
        """The component says margin and head in one name; we keep them apart."""
        loss = value.get("loss") if isinstance(value, Mapping) else None
        name = loss.get("name") if isinstance(loss, Mapping) else None
        if loss is None or not isinstance(name, str) or name not in MODEL_PARALLEL_LOSSES:
            return value
        head = dict(value.get("head") or {})
        if head.get("parallel", "model") in ("data", "Data-parallel metric learning"):
            raise ValueError(f"loss.name={name!r} contradicts head.parallel={head['parallel']!r}")
        return {
            **value,
            "loss": {**loss, "name": MODEL_PARALLEL_LOSSES[name]},
            "head": {**head, "parallel": "model"},
        }

    @classmethod
    def load(
        cls,
        file: str | Path | None = None,
        overrides: Sequence[str] = (),
        flags: Mapping[str, Any] | None = None,
        *,
        content: bytes | None = None,
    ) -> "Config":
        """The request made of a YAML file, `key=value` overrides and flags; the later wins.

        Args:
            file: a YAML file with the sections of this class.
            overrides: dotted, `optim.lr=0.01`; values are YAML.
            flags: dotted key to value; None means "not given".
            content: of `file`, where it was read already; `file` is then only its name.

        Raises:
            ConfigError: a key is unknown or a value is wrong; all of them are named.
        """
        tree = _read_yaml(file, content) if file is not None else {}
        place = str(file) if file is not None else ""
        return cls._changed(tree, overrides, flags or {}, place)

    def with_changes(self, overrides: Sequence[str], flags: Mapping[str, Any]) -> "Config":
        """A new Config with `key=value` overrides and flags, as `load` takes them.

        Raises:
            ConfigError: a key is unknown or a value is wrong; all of them are named.
        """
        return self._changed(self.model_dump(exclude_unset=True), overrides, flags, "")

    @classmethod
    def _changed(
        cls,
        tree: dict[str, Any],
        overrides: Sequence[str],
        flags: Mapping[str, Any],
        place: str,
    ) -> "Config":
        for item in overrides:
            key, equals, text = item.partition("=")
            if not equals:
                raise ConfigError(f"{item!r} is neither a YAML file nor key=value")
            try:
                _put(tree, key.strip(), yaml.load(text, _Loader))
            except yaml.YAMLError:
                raise ConfigError(f"{key}: {text!r} cannot be read as YAML; quote it") from None
        for key, value in flags.items():
            if value is not None:
                _put(tree, key, value)
        return cls.build(tree, place)

    @classmethod
    def build(cls, tree: Mapping[str, Any], place: str = "") -> "Config":
        """A checked Config from nested mappings; errors name `place`."""
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise ConfigError(_explain(error, place)) from None

    def with_values(self, values: Mapping[str, Any]) -> "Config":
        """A new Config with these dotted keys changed; they count as asked for."""
        tree = self.model_dump(exclude_unset=True)
        for key, value in values.items():
            _put(tree, key, value)
        return self.build(tree)

    def with_settings(self, settings: Mapping[str, Any]) -> "Config":
        """A new Config with settings by flag, by unambiguous last part, or as `section__key`.

        Raises:
            ConfigError: a name is unknown or ambiguous.
        """
        return self.with_values({_key(name): value for name, value in settings.items()})

    def to_yaml(self, *, complete: bool = True) -> str:
        """The request, loadable: every setting, or only those that were asked for."""
        tree = self.model_dump(exclude_unset=not complete)
        return yaml.safe_dump(_mapped(tree, lambda text: text), sort_keys=False)

    def asked(self) -> set[str]:
        """The dotted keys that a file, a flag, an override or Python gave; the others are open."""
        return {
            f"{section}.{name}"
            for section in self.model_fields_set
            for name in getattr(self, section).model_fields_set
        }

    def without_secrets(self) -> "Config":
        """The same request with addresses as they may be written: unsigned, without user info."""
        tree = self.model_dump(exclude_unset=True)
        return self.build(_mapped(tree, storage.lasting))

    def get(self, key: str) -> Any:
        """The value of a dotted key."""
        section, name = key.split(".")
        return getattr(getattr(self, section), name)


FLAGS = {
    "train": "data.train",
    "val": "data.val",
    "output": "run.output",
    "backbone": "model.backbone",
    "loss": "loss.name",
    "epochs": "train.epochs",
    "workers": "run.workers",
}
"""The settings that have a flag of their own on the command line."""


def keys() -> dict[str, tuple[str, str, str]]:
    """Every dotted key with its type, its default and its text."""
    found = {}
    for section, outer in Config.model_fields.items():
        assert isinstance(outer.annotation, type)
        assert issubclass(outer.annotation, BaseModel)
        for name, field in outer.annotation.model_fields.items():
            text = " ".join((field.description or "").split())
            found[f"{section}.{name}"] = (_type_name(field.annotation), _shown(field.default), text)
    return found


def _key(name: str) -> str:
    """The dotted key of a keyword argument."""
    known = keys()
    dotted = FLAGS.get(name, name.replace("__", "."))
    if dotted in known:
        return dotted
    found = [key for key in known if key.endswith(f".{name}")]
    if len(found) == 1:
        return found[0]
    if found:
        spelled = ", ".join(key.replace(".", "__") for key in found)
        raise ConfigError(f"the setting {name!r} is ambiguous; say one of {spelled}")
    close = difflib.get_close_matches(name, [*FLAGS, *(k.split(".")[1] for k in known)], 1, 0.5)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise ConfigError(f"there is no setting {name!r}{hint}")


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-4` as text; people mean a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """Nested mappings and lists with `change` done to each text, and tuples made lists."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(each, change) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mapped(each, change) for each in value]
    return value


def _read_yaml(file: str | Path, content: bytes | None = None) -> dict[str, Any]:
    try:
        text = (Path(file).read_bytes() if content is None else content).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8 text"
        raise ConfigError(f"{file}: {str(reason).lower()}") from None
    try:
        tree = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{file}{line}: not YAML: {getattr(error, 'problem', error)}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{file}: holds no sections; write e.g. 'optim:' and below it '  lr: 0.1'"
        )
    return tree


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *path, name = key.split(".")
    for part in path:
        inner = tree.get(part)
        tree[part] = dict(inner) if isinstance(inner, Mapping) else {}
        tree = tree[part]
    tree[name] = value


def _explain(error: ValidationError, place: str) -> str:
    lines = []
    for item in error.errors():
        key = ".".join(
            str(part) for part in item["loc"] if part not in ("bool", "str", "list[str]")
        )
        value = item.get("input")
        if item["type"] == "extra_forbidden":
            close = difflib.get_close_matches(key, [*keys(), *Config.model_fields], 1, 0.5)
            what = f"{key} is not a key" + (f"; did you mean {close[0]}?" if close else "")
        elif item["type"] == "literal_error":
            what = f"{key}={value!r} is not one of {item['ctx']['expected']}"
        elif item["type"] == "value_error":
            text = str(item["ctx"]["error"])
            what = f"{key}={value!r} {text}" if key else text
        elif item["type"] == "model_type":
            what = f"{key}={value!r} is a section: write {key}.NAME=value"
        else:
            what = f"{key}={value!r}: {item['msg'][0].lower()}{item['msg'][1:]}"
        lines.append(f"{place}: {what}" if place else what)
    return "\n".join(dict.fromkeys(lines))


def _type_name(annotation: Any) -> str:
    if choices := [c for c in get_args(annotation) if isinstance(c, str)]:
        return " \\| ".join(choices)
    if isinstance(annotation, type):
        return annotation.__name__
    return str(annotation).replace(" | None", "").replace(" | ", " \\| ").replace("typing.", "")


def _shown(default: Any) -> str:
    if default is None:
        return "-"
    return str(default).lower() if isinstance(default, bool) else str(default)
