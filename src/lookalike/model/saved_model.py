"""Files of a saved embedder, config.json and model.safetensors, checked as they are read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import safetensors
import safetensors.torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from lookalike.errors import RunError, one_line, reason_of
from lookalike.model import POOLINGS
from lookalike.storage.checked_json import Checked, read_checked
from lookalike.storage.local_files import digest_of

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"

_Side = Annotated[int, Field(ge=1, le=16384)]
_Channels = Annotated[int, Field(ge=1, le=2**20)]
_Level = Annotated[float, Field(ge=-1000, le=1000)]  # as a part of the range of grey levels
_Width = Annotated[float, Field(gt=0, le=1000)]

_DEEPEST, _LARGEST = 4, 65536  # of a constructor's arguments


class SavedPreprocess(Checked):
    """Settings of `Preprocess`."""

    image_size: _Side | tuple[_Side, _Side]
    crop_pct: Annotated[float, Field(ge=0.01, le=1)]
    mean: tuple[_Level, _Level, _Level]
    std: tuple[_Width, _Width, _Width]
    interpolation: Literal["bilinear", "bicubic"]


class SavedModel(Checked):
    """The dictionary of `Embedder.describe`."""

    format: Literal["lookalike embedder 1"] = "lookalike embedder 1"
    # Of timm's registry: loading fetches nothing from elsewhere.
    backbone: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-]{1,200}$")]
    backbone_args: dict[str, Any] = Field(default_factory=dict)
    backbone_dim: _Channels
    embedding_dim: _Channels
    pooling: str
    free_length: bool = False  # absent in older files, as are those below
    final_norm: bool = False
    quarters_stride: Annotated[int, Field(ge=1, le=1024)] | None = None
    mirror: bool = False
    projected_dim: _Channels | None = None
    preprocess: SavedPreprocess
    sha256: Annotated[str, Field(max_length=64)] | None = None  # of the weights

    @model_validator(mode="after")
    def _values(self) -> Self:
        parts = self.pooling.split("+")
        if len(set(parts)) < len(parts) or not set(parts) <= set(POOLINGS):
            raise ValueError(f"pooling is none of {', '.join(POOLINGS)}, nor several joined by '+'")
        if ("quarters" in parts) != (self.quarters_stride is not None):
            raise ValueError("pooling has quarters without quarters_stride, or the reverse")
        if self.projected_dim is not None and self.projected_dim > self.embedding_dim:
            raise ValueError("projected_dim is more than embedding_dim")
        if not _plain(self.backbone_args):
            raise ValueError("backbone_args holds something that no model of timm takes")
        return self


def read_saved(folder: Path) -> SavedModel:
    """The description of the embedder in `folder`.

    Raises:
        RunError: there is none, it cannot be read, or it is something else.
    """
    return read_checked(_bytes(folder, CONFIG_FILE), SavedModel, str(folder / CONFIG_FILE))


def is_as_described(folder: Path, described: SavedModel) -> bool:
    """True where the digest of the weights is the one in the description.

    Raises:
        RunError: there are none, or they cannot be read.
    """
    if described.sha256 is None:
        return True
    try:
        return digest_of(folder / WEIGHTS_FILE) == described.sha256
    except OSError as error:
        raise _unreadable(folder, WEIGHTS_FILE, error) from None


def read_tensors(folder: Path, described: SavedModel) -> dict[str, Tensor]:
    """The weights beside that description, checked to be those of such an embedder's neck.

    Raises:
        RunError: there are none, they cannot be read, or belong to another description.
    """
    path = folder / WEIGHTS_FILE
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        _check_neck(shapes, described, path)
        return dict(safetensors.torch.load_file(path))
    except OSError as error:
        raise _unreadable(folder, WEIGHTS_FILE, error) from None
    except safetensors.SafetensorError as error:
        raise RunError(
            f"{path}: no safetensors file, or a damaged one ({one_line(error)})"
        ) from None


def load_tensors(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Put the tensors of `path` into `module`.

    Raises:
        RunError: names or shapes differ; names the first.
    """
    own = module.state_dict()
    for name in [*own, *tensors]:
        here, there = own.get(name), tensors.get(name)
        if here is None or there is None or here.shape != there.shape:
            wanted, found = (
                "nothing" if value is None else f"shape {list(value.shape)}"
                for value in (here, there)
            )
            raise RunError(
                f"{path}: {name} has {found}, and the network of {CONFIG_FILE} {wanted}; the two "
                "files belong to different models"
            )
    module.load_state_dict(tensors)


def _check_neck(shapes: dict[str, tuple[int, ...]], described: SavedModel, path: Path) -> None:
    # Sizes that are to be allocated must be those of the file.
    parts = described.pooling.split("+")
    neck = [shapes.get(f"neck.projections.{part}.weight", (0, 0)) for part in range(len(parts))]
    whole = {shape[-1] for shape, kind in zip(neck, parts, strict=True) if kind != "quarters"} or {
        described.backbone_dim
    }
    dims = (sum(shape[0] for shape in neck), *whole)
    if dims != (described.embedding_dim, described.backbone_dim):
        raise RunError(
            f"{path}: its neck leads from {dims[-1]} channels to {dims[0]} numbers, and "
            f"{CONFIG_FILE} has backbone_dim={described.backbone_dim} and embedding_dim="
            f"{described.embedding_dim}; the two files belong to different models"
        )


def _bytes(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise _unreadable(folder, name, error) from None


def _unreadable(folder: Path, name: str, error: OSError) -> RunError:
    if isinstance(error, FileNotFoundError):
        return RunError(f"{folder}: no embedder here ({name} is missing)")
    reason = reason_of(error, one_line(error))
    return RunError(f"{folder / name}: cannot be read: {reason}")


def _plain(value: Any, depth: int = 0) -> bool:
    """True for names, flags and numbers of a network's size, and small containers of them."""
    if isinstance(value, (dict, list)):
        inner = value.values() if isinstance(value, dict) else value
        return depth < _DEEPEST and len(value) <= 100 and all(_plain(v, depth + 1) for v in inner)
    if isinstance(value, (int, float)):
        return math.isfinite(value) and abs(value) <= _LARGEST
    return value is None or (isinstance(value, str) and len(value) <= 100)
