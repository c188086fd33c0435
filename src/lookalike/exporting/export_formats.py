"""Writers of the formats: write, read back for the certificate, add the description."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lookalike.exporting import CALIBRATION, FORMAT_VERSION, METADATA, artefact_digest
from lookalike.exporting.artefact import metadata, write_description
from lookalike.exporting.exported import ExportedModel, load_onnx, load_openvino
from lookalike.exporting.weight_folders import load_timm, save_ours, save_timm
from lookalike.model.embedder import Embedder

Ranges = Iterable[np.ndarray] | None


@dataclass(frozen=True)
class Artefact:
    """A written model without a certificate.

    Attributes:
        reread: loads it from its files.
        finish: adds the description and the content of calibration.json.
        fingerprint: of the embedder that `Embedder.load` makes of it; None for other formats.
        runtime: the package that `reread` runs it with.
        also: `reread` with other packages, by name.
    """

    reread: Callable[[], ExportedModel]
    finish: Callable[[Mapping[str, Any], str | None], None]
    fingerprint: Callable[[], str] | None = None
    runtime: str = "torch"
    also: Mapping[str, Callable[[], ExportedModel]] = field(default_factory=dict)


def write_onnx(
    embedder: Embedder, precision: str, path: Path, ranges: Ranges, input: str = "picture"
) -> Artefact:
    """ONNX file for onnxruntime; with `input` tensor also for OpenVINO."""
    from lookalike.exporting import onnx_model

    model = onnx_model.build(embedder, precision, ranges, input)

    def finish(about: Mapping[str, Any], calibration: str | None) -> None:
        onnx_model.save(model, path, metadata(artefact_digest.with_blank(about), calibration))
        artefact_digest.fill_in(path)

    finish({"format": FORMAT_VERSION, "model": embedder.describe(), "input_kind": input}, None)
    also: dict[str, Callable[[], ExportedModel]] = {}
    if input == "tensor" and importlib.util.find_spec("openvino") is not None:
        also["openvino"] = partial(load_openvino, path)
    return Artefact(partial(load_onnx, path), finish, runtime="onnxruntime", also=also)


def write_program(embedder: Embedder, precision: str, path: Path, ranges: Ranges) -> Artefact:
    """`torch.export` program."""
    from lookalike.exporting import torch_program

    written = torch_program.build(embedder, precision)
    torch_program.save(written, path, {})

    def reread() -> ExportedModel:
        module = torch_program.reread(path)

        def run(images: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return module(torch.from_numpy(images)).numpy()

        return ExportedModel(run, embedder.embedding_dim)

    def finish(about: Mapping[str, Any], calibration: str | None) -> None:
        texts = {} if calibration is None else {CALIBRATION: calibration}
        torch_program.save(written, path, texts)
        artefact_digest.add_entry(path, f"extra/{METADATA}.json", about)

    return Artefact(reread, finish)


def write_ours(embedder: Embedder, precision: str, path: Path, ranges: Ranges) -> Artefact:
    """Folder of an embedder."""
    save_ours(embedder, path, precision)
    return Artefact(
        lambda: _of_pictures(Embedder.load(path)),
        partial(write_description, path),
        lambda: Embedder.load(path).fingerprint(),
    )


def write_timm(embedder: Embedder, precision: str, path: Path, ranges: Ranges) -> Artefact:
    """Folder of a timm model, with the neck beside it."""
    save_timm(embedder, path, precision)
    return Artefact(
        lambda: _of_pictures(load_timm(path, embedder)),
        partial(write_description, path),
    )


WRITERS: dict[str, Callable[[Embedder, str, Path, Ranges], Artefact]] = {
    "onnx": write_onnx,
    "torch_export": write_program,
    "safetensors": write_ours,
    "timm": write_timm,
}
"""(embedder, precision, where to, images (b, 3, S, S) uint8 that int8 takes its ranges from)."""


def _of_pictures(embedder: Embedder) -> ExportedModel:
    """Embedder with the interface of exported models."""

    def run(images: np.ndarray) -> np.ndarray:
        batch = torch.stack([embedder.preprocess.prepare(pixels) for pixels in images])
        return embedder.embed_batch(batch).numpy()

    return ExportedModel(run, embedder.embedding_dim)
