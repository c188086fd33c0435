"""The whole request: the sections of settings, loaded from a file, overrides and flags.

The texts of the settings feed `lookalike train --help`, docs/parameters.md and the JSON schema.
"""

import difflib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, get_args, get_origin

from pydantic import ValidationError, model_validator
from pydantic.fields import FieldInfo

from lookalike import storage
from lookalike.config.aliases import key_called, plain
from lookalike.config.section_base import Section, extra_of
from lookalike.config.sections import (
    MODEL_PARALLEL_LOSSES,
    DataConfig,
    HeadConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
)
from lookalike.config.yaml_lines import read_mapping, read_value, write_yaml
from lookalike.errors import ConfigError
from lookalike.run import CONFIG, RESOLVED
from lookalike.storage import Place
from lookalike.storage.local_files import refuse_remote
from lookalike.storage.schema_faults import faults_of


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
    def _recipe_at_the_top(cls, value: Any) -> Any:
        """`recipe: component` beside the sections is `train.recipe`."""
        if not isinstance(value, Mapping) or "recipe" not in value:
            return value
        rest = {key: inner for key, inner in value.items() if key != "recipe"}
        train = rest.get("train") or {}
        if isinstance(train, Mapping):
            if "recipe" in train:
                raise ValueError("recipe and train.recipe are the same setting; leave one out")
            rest["train"] = {**train, "recipe": value["recipe"]}
        return rest

    @model_validator(mode="before")
    @classmethod
    def _model_parallel_losses(cls, value: Any) -> Any:
        """The component has names for a margin with `head.parallel=model`."""
        loss = value.get("loss") if isinstance(value, Mapping) else None
        name = loss.get("name") if isinstance(loss, Mapping) else None
        names = {plain(each): margin for each, margin in MODEL_PARALLEL_LOSSES.items()}
        margin = names.get(plain(name)) if isinstance(name, str) else None
        if loss is None or margin is None:
            return value
        head = dict(value.get("head") or {})
        if head.get("parallel", "model") in ("data", "Data-parallel metric learning"):
            raise ValueError(f"loss.name={name!r} contradicts head.parallel={head['parallel']!r}")
        return {
            **value,
            "loss": {**loss, "name": margin},
            "head": {**head, "parallel": "model"},
        }

    @classmethod
    def load(
        cls,
        file: Place | None = None,
        overrides: Sequence[str] = (),
        flags: Mapping[str, Any] | None = None,
        *,
        content: bytes | None = None,
    ) -> "Config":
        """The request of a YAML file, `key=value` overrides and flags; the later wins.

        Args:
            file: a YAML file with the sections of this class.
            overrides: dotted, `optim.lr=0.01`; values are YAML.
            flags: dotted key -> value; None for not given.
            content: of `file`, which is then only a name for messages.

        Raises:
            ConfigError: a key is unknown or a value is wrong; all of them are named.
        """
        tree, places = _read_yaml(file, content) if file is not None else ({}, {})
        for item in overrides:
            key, equals, text = item.partition("=")
            if not equals:
                raise ConfigError(f"{item!r} is neither a YAML file nor key=value")
            key = key.strip()
            try:
                value = read_value(text)
            except ValueError:
                # A pattern, `*.txt` or `{a,b}.txt`, is no YAML.
                if text[:1] not in "*{" or not keys().get(key, ("",))[0].startswith("str"):
                    raise ConfigError(f"{key}: {text!r} cannot be read as YAML; quote it") from None
                value = text
            if _is_meant_as_text(key, text, value):
                value = text
            _put(tree, key, value)
            places.pop(key, None)
        for key, value in (flags or {}).items():
            if value is not None:
                _put(tree, key, value)
                places.pop(key, None)
        return cls.build(tree, str(file) if file is not None else "", places)

    @classmethod
    def build(
        cls, tree: Mapping[str, Any], place: str = "", places: Mapping[str, str] | None = None
    ) -> "Config":
        """A checked Config from nested mappings; errors name `place`, or that of the key."""
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise ConfigError(_explain(error, place, places or {})) from None

    def with_values(self, values: Mapping[str, Any]) -> "Config":
        """A new Config with these dotted keys changed; they count as asked for."""
        tree = self.model_dump(exclude_unset=True)
        for key, value in values.items():
            _put(tree, key, value)
        return self.build(tree)

    @classmethod
    def of(cls, config: "Config | None", settings: Mapping[str, Any]) -> "Config":
        """`config`, or the defaults for None, with the keywords of a Python call.

        Raises:
            ConfigError: `config` is no Config, or a setting cannot be.
        """
        if config is not None and not isinstance(config, Config):
            raise ConfigError(
                f"config is of type {type(config).__name__}; give lookalike.Config.load(FILE), and "
                "settings as keywords: train='train.txt'"
            )
        return (config or cls()).with_settings(settings)

    def with_settings(self, settings: Mapping[str, Any]) -> "Config":
        """A new Config with settings by flag, unambiguous last part, or `section__key`.

        Raises:
            ConfigError: a name is unknown or ambiguous.
        """
        return self.with_values(
            {
                key_of(name): os.fspath(value) if isinstance(value, os.PathLike) else value
                for name, value in settings.items()
            }
        )

    def to_yaml(self, *, complete: bool = True) -> str:
        """The request, loadable: every setting, or only those that were asked for."""
        tree = self.model_dump(exclude_unset=not complete)
        return write_yaml(_mapped(tree, lambda text: text))

    def asked(self) -> set[str]:
        """The dotted keys that were given."""
        return {
            f"{section}.{name}"
            for section in self.model_fields_set
            for name in getattr(self, section).model_fields_set
        }

    def without_secrets(self) -> "Config":
        """The same request with addresses without signature and user info."""
        tree = self.model_dump(exclude_unset=True)
        return self.build(_mapped(tree, storage.unsigned))

    def only(self, wanted: Iterable[str]) -> "Config":
        """A new Config that gives these dotted keys, with the values they have here."""
        return type(self)().with_values({key: self.get(key) for key in sorted(wanted)})

    def require_list_and_output(self) -> None:
        """Check that there are images to train on, and a directory for the results.

        Raises:
            ConfigError: one is missing.
        """
        if self.data.train is None:
            raise ConfigError("nothing to train on: give data.train (--train), a list of images")
        if self.run.output is None:
            raise ConfigError("nowhere to write to: give run.output (--output), a directory")

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
    "recipe": "train.recipe",
}
"""The settings that have a flag of their own on the command line."""

CHOSEN_BY_RECIPE = frozenset(
    {
        "data.val_fraction", "data.min_crop", "data.flip",
        "model.image_size", "model.embedding_dim", "model.pooling", "model.init_from_features",
        "loss.name", "loss.scale", "loss.margin", "loss.classification_weight",
        "head.parallel", "head.dtype",
        "optim.name", "optim.lr", "optim.backbone_lr_factor",
        "train.batch_size", "train.epochs", "train.freeze_batchnorm", "train.interpolate",
        "train.freeze_backbone_epochs", "train.cache_features",
    }
)  # fmt: skip
"""The settings that the recipe `auto` may choose where a request leaves them open; the defaults of
their fields are those of the recipe `component`."""


@cache
def _fields() -> dict[str, FieldInfo]:
    return {
        f"{section}.{name}": field
        for section, outer in Config.model_fields.items()
        for name, field in type(outer.default).model_fields.items()
    }


def keys() -> dict[str, tuple[str, str, str]]:
    """Every dotted key with its type, its default and its text."""
    return described(_fields())


def described(fields: Mapping[str, FieldInfo]) -> dict[str, tuple[str, str, str]]:
    """Type, default and text of each field."""
    return {
        key: (
            _type_name(field.annotation),
            _shown(field.default),
            " ".join((field.description or "").split()),
        )
        for key, field in fields.items()
    }


def popular_keys() -> list[str]:
    """The twenty dotted keys that matter most."""
    return [key for key, field in _fields().items() if extra_of(field).get("popular")]


def key_of(name: str) -> str:
    """The dotted key of a keyword argument.

    Raises:
        ConfigError: the name is unknown or ambiguous.
    """
    known = keys()
    dotted = FLAGS.get(name, name.replace("__", "."))
    if dotted in known:
        return dotted
    found = [key for key in known if key.endswith(f".{name}")]
    if len(found) == 1:
        return found[0]
    if found:
        spelled = ", ".join(key.replace(".", "__") for key in found)
        raise ConfigError(f"the setting {name!r} is ambiguous; write one of {spelled}")
    meant = key_called(name)
    if meant is not None:
        short = next((flag for flag, key in FLAGS.items() if key == meant), meant.split(".")[1])
        alone = short in FLAGS or sum(key.endswith(f".{short}") for key in known) == 1
        hint = f"; did you mean {short if alone else meant.replace('.', '__')}?"
    else:
        choices = [*FLAGS, *(k.split(".")[1] for k in known)]
        close = difflib.get_close_matches(name, choices, 1, 0.5)
        hint = f"; did you mean {close[0]}?" if close else ""
    raise ConfigError(f"there is no setting {name!r}{hint}")


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """Nested mappings and lists with each text changed, and tuples made lists."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(each, change) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mapped(each, change) for each in value]
    return value


def _read_yaml(file: Place, content: bytes | None = None) -> tuple[dict[str, Any], dict[str, str]]:
    """The sections of a file, and `file:line` of each section and dotted key."""
    if content is None:
        refuse_remote(file)
        _refuse_resolved(file)
    try:
        raw = storage.path_of(file).read_bytes() if content is None else content
        text = raw.decode("utf-8-sig")
    except IsADirectoryError:
        raise ConfigError(
            f"{file}: a folder, where a YAML file is expected; give the config.yaml of a run, or "
            "images as --train FOLDER"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8 text"
        raise ConfigError(f"{file}: {str(reason).lower()}") from None
    found, lines = read_mapping(text, str(file))
    places = {key: f"{file}:{line}" for key, line in lines.items()}
    # A section without a line below it counts as missing.
    tree = {k: v for k, v in found.items() if v is not None or k not in Config.model_fields}
    for key in [key for key in tree if isinstance(key, str) and key in keys()]:
        section, name = key.split(".")
        if isinstance(tree.get(section), Mapping) and name in tree[section]:
            raise ConfigError(
                f"{places[key]}: {key} is there twice, once with its section before it"
            )
        _put(tree, key, tree.pop(key))
    return {str(key): value for key, value in tree.items()}, places


def _refuse_resolved(file: Place) -> None:
    path = storage.path_of(file)
    if path.name == RESOLVED and path.is_file():
        raise ConfigError(
            f"{file}: holds every setting as a run used it, so that nothing would follow from what "
            f"you change; give {path.with_name(CONFIG)}, the settings that were asked for, or a "
            "copy of this file under another name to keep them all"
        )


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key; a value in the place of its section stays, for `build` to refuse."""
    *path, name = key.split(".")
    for part in path:
        inner = tree.get(part)
        if inner is not None and not isinstance(inner, Mapping):
            return
        tree[part] = dict(inner or {})
        tree = tree[part]
    tree[name] = value


def _is_meant_as_text(key: str, text: str, value: Any) -> bool:
    """True for a text of a setting that YAML reads as a number, or cuts at ` #`, a comment."""
    kind = keys().get(key, ("",))[0]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    cut = isinstance(value, str) and " #" in text and text[:1] not in "\"'"
    return (kind == "str" and number) or (cut and "str" in kind)


def _explain(error: ValidationError, place: str, places: Mapping[str, str]) -> str:
    """A line for each setting that is wrong."""
    lines = []
    words = {"extra_forbidden": _unknown, "model_type": _is_section}
    for key, what in faults_of(error, words):
        section, _, name = key.partition(".")
        where = places.get(f"{section}.{name.partition('.')[0]}") or places.get(key)
        where = where or places.get(section) or ("" if places and key else place)
        lines.append(f"{where}: {what}" if where else what)
    return "\n".join(lines)


def _unknown(key: str) -> str:
    found = setting_meant(key)
    return "is not a key" + (f"; did you mean {found}?" if found else "")


def _is_section(key: str) -> str:
    first = next((k for k in (*popular_keys(), *keys()) if k.startswith(f"{key}.")), None)
    return f"is a section: write {first}=value, or another key of it"


def setting_meant(name: str) -> str | None:
    """The key or section closest to a wrong name; several that have the same end.

    By last part (`lr`), by another usual name (`learning_rate`), and by letters.
    """
    known = keys()
    last = name.rpartition(".")[2]
    if "." not in name or name.split(".")[0] not in Config.model_fields:
        ends = [key for key in known if plain(key.split(".")[1]) == plain(last)]
        if ends:
            return " or ".join(ends)
    choices = list(known) if "." in name else [*known, *Config.model_fields]
    close = difflib.get_close_matches(name, choices, 1, 0.75)
    meant = key_called(name) or key_called(last) or FLAGS.get(last)
    if close or meant:
        return close[0] if close else meant
    parts = [key.split(".")[1] for key in known]
    by_end = difflib.get_close_matches(last, parts, 1, 0.75)
    if by_end:
        return next(key for key in known if key.endswith(f".{by_end[0]}"))
    if mistyped := key_called(last, 0.85):
        return mistyped
    return next(iter(difflib.get_close_matches(name, choices, 1, 0.5)), None)


def _type_name(annotation: Any) -> str:
    args = get_args(annotation)
    if choices := [c for c in args if isinstance(c, str)]:
        return " \\| ".join(choices)
    if get_origin(annotation) is tuple and args[-1] is Ellipsis:  # YAML knows lists alone
        return f"list[{_type_name(args[0])}]"
    if isinstance(annotation, type) and not args:
        return annotation.__name__
    return str(annotation).replace(" | None", "").replace(" | ", " \\| ").replace("typing.", "")


def _shown(default: Any) -> str:
    if default is None:
        return "-"
    return str(default).lower() if isinstance(default, bool) else str(default)
