"""Fields of the training form: the component's three tabs, made from the settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from lookalike.config.config import keys, popular_keys

FIELDS, PARAMETERS, EXECUTION = "Fields Setting", "Parameter Settings", "Execution Tuning"
TABS = (FIELDS, PARAMETERS, EXECUTION)

_MOST_SHOWN = 110  # signs of a field's help that is not unfolded

COMPUTING_MODE = "computing_mode"
"""Field without a setting of its own: it allows or refuses several workers."""

COMPONENT: tuple[tuple[str, str, str], ...] = (
    (FIELDS, "Metric learning model type", "head.parallel"),
    (FIELDS, "Training annotation file path", "data.train"),
    (FIELDS, "Validation annotation file path", "data.val"),
    (FIELDS, "OSS directory for training output", "run.output"),
    (FIELDS, "File of class name list", "data.classes"),
    (FIELDS, "Data source format", "data.format"),
    (FIELDS, "OSS path of the pre-trained model", "model.pretrained"),
    (PARAMETERS, "Metric learning backbone", "model.backbone"),
    (PARAMETERS, "Image resize size", "model.image_size"),
    (PARAMETERS, "Backbone output feature dimension", "model.backbone_dim"),
    (PARAMETERS, "Feature output dimension", "model.embedding_dim"),
    (PARAMETERS, "Number of training classes", "data.num_classes"),
    (PARAMETERS, "Loss function", "loss.name"),
    (PARAMETERS, "Loss function scale parameter", "loss.scale"),
    (PARAMETERS, "Loss function margin parameter", "loss.margin"),
    (PARAMETERS, "Loss function weight", "loss.weight"),
    (PARAMETERS, "Optimizer", "optim.name"),
    (PARAMETERS, "Initial learning rate", "optim.lr"),
    (PARAMETERS, "Training batch_size", "train.batch_size"),
    (PARAMETERS, "Total training epochs", "train.epochs"),
    (PARAMETERS, "Checkpoint saving frequency", "train.checkpoint_every"),
    (EXECUTION, "Training data read threads", "data.threads"),
    (EXECUTION, "Enable half-precision", "train.precision"),
    (EXECUTION, "Computing mode", COMPUTING_MODE),
    (EXECUTION, "Workers", "run.workers"),
    (EXECUTION, "GPU model", "run.device"),
)
"""Tab, name and key of the component's parameters, in its order."""

REQUIRED = ("data.train", "run.output")

_TAB_OF_SECTION = {
    "data": FIELDS, "model": PARAMETERS, "loss": PARAMETERS, "head": PARAMETERS,
    "optim": PARAMETERS, "train": EXECUTION, "run": EXECUTION,
}  # fmt: skip

PATHS = {
    "data.train": "file", "data.val": "file", "data.weights": "file", "data.image_root": "folder",
    "data.classes": "file", "data.cache": "folder", "model.pretrained": "file",
    "train.recipe": "file", "train.cache_features": "folder", "train.start_from": "folder",
    "run.output": "folder", "run.workdir": "folder",
    "list": "file", "data": "file", "gallery": "file", "fit": "file", "ranges": "file",
    "model": "folder", "output": "folder", "cache": "folder", "image_root": "folder",
}  # fmt: skip
"""Settings that may name a file or folder, and which of both the form offers to browse for.

Those of trainings are dotted keys, the others names of other nodes of a workflow.
"""

NOT_PATHS = {
    "model.pretrained": ("true", "false", "yes", "no", "on", "off"),
    "train.recipe": ("auto", "component"),
    "train.cache_features": ("true", "false", "yes", "no", "on", "off"),
}
"""Values of settings in `PATHS` that are no paths."""


@dataclass(frozen=True)
class FormField:
    """One field.

    Attributes:
        key: the dotted key; the name of the input.
        label: the component's name of it, or the key.
        choices: values of a select; empty for a text.
        default: shown while the field is empty.
        is_popular: shown at once, not folded.
        is_required: no run starts without a value.
    """

    key: str
    label: str
    tab: str
    help: str
    kind: str
    default: str
    choices: tuple[str, ...] = ()
    is_popular: bool = False
    is_required: bool = False

    @property
    def browse(self) -> str:
        """`file` or `folder` for a path, else ""."""
        return PATHS.get(self.key, "")

    @property
    def short_help(self) -> str:
        """The first sentence, or the first words of a long one."""
        first = self.help.split(". ")[0].rstrip(".").replace("`", "")
        if len(first) <= _MOST_SHOWN:
            return f"{first}."
        return f"{first[:_MOST_SHOWN].rpartition(' ')[0].rstrip(',;:(')} …"


@cache
def form_fields() -> tuple[FormField, ...]:
    """All fields: those of the component in its order, other popular ones, then the rest."""
    known, popular = keys(), popular_keys()
    placed: dict[str, FormField] = {}
    for tab, label, key in COMPONENT:
        if key == COMPUTING_MODE:
            placed[key] = FormField(
                key, label, tab,
                "standalone: one process. distributed: as many processes of this machine as "
                "Workers says. For jobs on a cluster: lookalike submit.",
                "choice", "distributed if Workers is above 1", ("standalone", "distributed"), True,
            )  # fmt: skip
        else:
            placed[key] = dataclasses.replace(
                field_of(key, known[key]), label=label, tab=tab, is_popular=True,
                is_required=key in REQUIRED,
            )  # fmt: skip
    for key in (*popular, *known):
        if key not in placed:
            placed[key] = dataclasses.replace(field_of(key, known[key]), is_popular=key in popular)
    return tuple(placed.values())


def of_tab(tab: str, *, popular: bool) -> list[FormField]:
    """The fields of a tab that are shown at once, or the folded ones."""
    return [field for field in form_fields() if field.tab == tab and field.is_popular == popular]


def field_of(key: str, facts: tuple[str, str, str]) -> FormField:
    """The field of a setting with this type, default and text."""
    kind, default, text = facts
    parts = [part.strip() for part in kind.split("\\|")]
    plain = {"str", "int", "float", "bool"}
    choices: tuple[str, ...] = ()
    if kind == "bool":
        choices = ("true", "false")
    elif len(parts) > 1 and not any(part in plain or "[" in part for part in parts):
        choices = tuple(parts)
    return FormField(
        key=key,
        label=key,
        tab=_TAB_OF_SECTION.get(key.split(".")[0], FIELDS),
        help=text.replace("\\|", "|"),
        kind=kind.replace("\\|", "|"),
        default="" if default == "-" else default,
        choices=choices,
    )


def is_path(key: str, value: str) -> bool:
    """True if the value of a setting is a path or URI."""
    return key in PATHS and value.lower() not in NOT_PATHS.get(key, ())


def values_of(settings: Mapping[str, object]) -> dict[str, str]:
    """Texts of the form for settings by key."""
    texts = {}
    for key, value in settings.items():
        if isinstance(value, bool):
            texts[key] = str(value).lower()
        elif key in ("data.train", "data.val") and isinstance(value, list | tuple):
            texts[key] = "\n".join(map(str, value))
        elif isinstance(value, tuple):
            texts[key] = str(list(value))
        elif value is not None:
            texts[key] = str(value)
    return texts
