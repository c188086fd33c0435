"""Kinds of nodes: their ports, and their settings, which are those of the command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

from lookalike.config.config import Config
from lookalike.config.section_base import Section

PortType = Literal["list", "run", "export", "index", "scores"]


@dataclass(frozen=True)
class InputPort:
    """An input.

    Attributes:
        types: of the outputs that may be connected.
        key: the setting that a connected output replaces.
        required: it is connected, or its setting is given.
    """

    types: tuple[PortType, ...]
    key: str
    required: bool = False


@dataclass(frozen=True)
class OutputPort:
    """An output; `needs` is the setting without which the node does not make it."""

    type: PortType
    needs: str | None = None


@dataclass(frozen=True)
class NodeKind:
    """Kind of a node.

    Attributes:
        text: one line for people.
        settings: the model that checks `with`; for Config, by dotted keys.
        inputs: by name.
        outputs: by name.
        continues: an attempt that was stopped is continued in its folder.
    """

    text: str
    settings: type[BaseModel]
    inputs: dict[str, InputPort]
    outputs: dict[str, OutputPort]
    continues: bool = False


class ReadSettings(Section):
    """Settings of `read`."""

    list: str | None = None
    """A list, manifest, table, folder or shards of labelled images."""


class _Reading(Section):
    threads: int = 4
    """Threads that read and decode images."""
    cache: str | None = None
    """Folder that caches remote images; by default that of the run."""
    cache_size: str | None = None
    """Largest size of that folder, as 50GB."""
    requests: int | None = None
    """Remote images requested at a time."""
    allow_truncated: bool | None = None
    """Accept JPEGs whose end is missing."""
    path_column: str | None = None
    """Column of images in a table; by default found by name and content."""
    label_column: str | None = None
    """Column of labels in a table; by default found by name."""
    image_root: str | None = None
    """Folder or URI where relative paths in lists start; by default the list's folder."""


class EvaluateSettings(_Reading):
    """Settings of `evaluate`."""

    model: str | None = None
    """A run, a model folder or an exported model."""
    data: str | None = None
    """Labelled images to measure on."""
    format: str = "auto"
    """Format of `data`."""
    split: str | None = None
    """Split to measure on, of data that have some."""
    recall: int | tuple[int, ...] = (1, 2, 4, 8)
    """The k of Recall@k, one or several."""
    precision: int | tuple[int, ...] = ()
    """The k of precision@k, one or several."""
    full: bool = False
    """Rank everything: mAP and mINP too."""
    verification: bool = False
    """Same or different: ROC, TAR at FARs, thresholds."""
    nmi: bool = False
    """Clusters against classes too; slow for many classes."""
    seed: int = 0
    """Of the intervals."""
    device: str = "auto"
    """auto, cpu or cuda."""


class ImproveSettings(_Reading):
    """Settings of `improve`."""

    model: str | None = None
    """A run or a model folder."""
    data: str | None = None
    """Labelled images to measure on."""
    variants: str | tuple[str, ...] | None = None
    """Steps joined by +, one text or several; by default one of each kind."""
    fit: str | None = None
    """Images to fit whitening on; by default the training list."""
    keep: str | None = None
    """Save the model with these steps: flip, whiten, dims."""
    format: str = "auto"
    """Format of `data`."""
    split: str | None = None
    """Split to measure on, of data that have some."""
    device: str = "auto"
    """auto, cpu or cuda."""


class ExportSettings(_Reading):
    """Settings of `export`."""

    model: str | None = None
    """A run or a model folder."""
    format: Literal["onnx", "torch_export", "safetensors", "timm"] = "onnx"
    """Of the exported model."""
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    """Of its numbers."""
    input: Literal["picture", "tensor"] = "picture"
    """Input of the exported model: a decoded image of any size, or a preprocessed tensor."""
    output: str | None = None
    """File or folder; by default in `exports/` of the run, and of a model alone in the node's."""
    data: str | None = None
    """Labelled images to compare on; by default the validation list of the run."""
    data_format: str = "auto"
    """Format of `data`."""
    split: str | None = None
    """Split to take, of `data` that has some."""
    max_drift: float | None = None
    """Largest 1 - cosine of an image's two vectors."""
    max_recall_change: float | None = None
    """Largest change of Recall@1."""
    max_images: int = 1000
    """Images to compare on, at most."""
    ranges: str | None = None
    """For int8: images that set the ranges; by default the training list."""


class IndexSettings(_Reading):
    """Settings of `index`."""

    model: str | None = None
    """A run, a model folder or an exported model."""
    gallery: str | None = None
    """Images to search."""
    kind: str = "auto"
    """Kind of search in the index."""
    device: str = "auto"
    """auto, cpu or cuda."""


_LIST: tuple[PortType, ...] = ("list",)
_RUN: tuple[PortType, ...] = ("run",)
_MODEL: tuple[PortType, ...] = ("run", "export")

KINDS: dict[str, NodeKind] = {
    "read": NodeKind(
        "names labelled images", ReadSettings, {}, {"list": OutputPort("list", "list")}
    ),
    "doctor": NodeKind(
        "finds issues of lists and images",
        Config,
        {
            "train": InputPort(_LIST, "data.train", required=True),
            "val": InputPort(_LIST, "data.val"),
        },
        {},
    ),
    "train": NodeKind(
        "trains a model",
        Config,
        {
            "train": InputPort(_LIST, "data.train", required=True),
            "val": InputPort(_LIST, "data.val"),
            "start": InputPort(_RUN, "train.start_from"),
        },
        {"run": OutputPort("run")},
        continues=True,
    ),
    "evaluate": NodeKind(
        "measures how well a model retrieves",
        EvaluateSettings,
        {
            "model": InputPort(_MODEL, "model", required=True),
            "data": InputPort(_LIST, "data", required=True),
        },
        {"scores": OutputPort("scores")},
    ),
    "improve": NodeKind(
        "measures postprocessing of a model's vectors",
        ImproveSettings,
        {
            "model": InputPort(_RUN, "model", required=True),
            "data": InputPort(_LIST, "data", required=True),
            "fit": InputPort(_LIST, "fit"),
        },
        {"scores": OutputPort("scores"), "run": OutputPort("run", "keep")},
    ),
    "export": NodeKind(
        "writes a model for production",
        ExportSettings,
        {
            "model": InputPort(_RUN, "model", required=True),
            "data": InputPort(_LIST, "data"),
            "ranges": InputPort(_LIST, "ranges"),
        },
        {"export": OutputPort("export")},
    ),
    "index": NodeKind(
        "embeds images for search",
        IndexSettings,
        {
            "model": InputPort(_MODEL, "model", required=True),
            "gallery": InputPort(_LIST, "gallery", required=True),
        },
        {"index": OutputPort("index")},
        continues=True,
    ),
}
"""Kinds that `uses` may name."""
