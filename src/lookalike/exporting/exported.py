"""Exported models for inference: images in, unit vectors out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike import storage
from lookalike.data.loading.preprocess import Preprocess
from lookalike.errors import ConfigError, DataError, ModelError, RunError, check_installed
from lookalike.exporting import (
    CALIBRATION,
    FORMAT_VERSION,
    METADATA,
    artefact_digest,
    comparable_with,
)
from lookalike.model.user_images import Images, embedded, encode, pixels_from
from lookalike.storage import Place
from lookalike.storage.local_files import digest_of

_TOGETHER = 16  # images that `embed` decodes before the model runs


class ExportedModel:
    """An exported model with the methods of an `Embedder`; preprocessing is a part of it.

    Attributes:
        embedding_dim: D.
        about: the description of the artefact: model, versions, certificate.
        calibration: the content of calibration.json; None without one.
    """

    def __init__(
        self,
        run: Callable[[np.ndarray], np.ndarray],
        embedding_dim: int,
        *,
        device: torch.device | None = None,
        about: dict[str, Any] | None = None,
        calibration: str | None = None,
        fingerprint: str = "",
        path: Place | None = None,
        preprocess: Preprocess | None = None,
    ) -> None:
        """Wrap `run`: images (b, H, W, 3) uint8 of one size -> (b, D) float32.

        With `preprocess`, of a network without its preprocessing, (b, 3, S, S) float32 instead.
        """
        self._run = run
        self.preprocess = preprocess
        self.embedding_dim = embedding_dim
        self.device = device or torch.device("cpu")
        self.about = about or {}
        self.calibration = calibration
        self._fingerprint = fingerprint
        self._path = path

    def fingerprint(self) -> str:
        """32 hexadecimal digits of the file's SHA-256."""
        return self._fingerprint

    def trained_fingerprint(self) -> str:
        """Fingerprint of the trained model with comparable vectors; else its own (`COMPARABLE`)."""
        return comparable_with(self.about) or self._fingerprint

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by path: a copy opens the file again."""
        if self._path is None:
            raise ModelError(
                "this exported model was not loaded from a file, so that it cannot be copied or "
                "pickled; load its file with lookalike.load in each process"
            )
        return _opened_again, (str(self._path), str(self.device), self._fingerprint)

    def embed_pictures(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """Unit vectors (N, D) float32 of N images (H, W, 3) uint8 RGB of any sizes.

        Raises:
            DataError: a single image.
            ModelError: the model gives another number of vectors.
        """
        if isinstance(pictures, np.ndarray) and pictures.ndim != 4:
            raise DataError(
                f"embed_pictures takes several pictures (H, W, 3), not an array of shape "
                f"{pictures.shape}; put one into a list"
            )
        if self.preprocess is not None and len(pictures):
            return self.embed_prepared([self.preprocess.prepare(pixels) for pixels in pictures])
        by_size: dict[tuple[int, ...], list[int]] = {}
        for place, pixels in enumerate(pictures):
            by_size.setdefault(pixels.shape, []).append(place)
        vectors = np.full((len(pictures), self.embedding_dim), np.nan, np.float32)
        for places in by_size.values():
            vectors[places] = self._vectors(np.stack([pictures[place] for place in places]))
        return torch.from_numpy(vectors)

    def embed_prepared(self, images: Sequence[Tensor]) -> Tensor:
        """Unit vectors (N, D) float32 of N >= 1 images (3, S, S) uint8 of `preprocess.prepare`.

        Raises:
            ModelError: the model gives another number of vectors.
        """
        assert self.preprocess is not None
        batch = self.preprocess.normalise(torch.stack(list(images)))
        return torch.from_numpy(self._vectors(np.ascontiguousarray(batch.numpy())))

    def _vectors(self, images: np.ndarray) -> np.ndarray:
        found = self._run(images)
        if found.shape != (len(images), self.embedding_dim):
            raise ModelError(
                f"the exported model gave vectors of shape {found.shape} for {len(images)} "
                f"pictures, not ({len(images)}, {self.embedding_dim}); export it again"
            )
        return found

    def embed(self, images: Images, *, batch_size: int = _TOGETHER, threads: int = 4) -> np.ndarray:
        """Unit vectors of images, as of `Embedder.embed`; `batch_size` are held at a time."""

        def some(given: Sequence[Any]) -> Iterator[np.ndarray]:
            with ThreadPoolExecutor(max(threads, 1)) as pool:
                for start in range(0, len(given), batch_size):
                    part = given[start : start + batch_size]
                    yield self.embed_pictures(list(pool.map(pixels_from, part))).numpy()

        return embedded(images, self.embedding_dim, batch_size, threads, some)

    encode = encode


def _opened_again(path: str, device: str, fingerprint: str) -> ExportedModel:
    found = load_onnx(path, torch.device(device))
    if found.fingerprint() != fingerprint:
        raise RunError(f"{path}: is another file than the one that this model was loaded from")
    return found


def load_onnx(path: Place, device: torch.device | None = None) -> ExportedModel:
    """The model in a local ONNX file of `lookalike export`, run by onnxruntime.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        RunError: there is no such file, or it is no model of ours.
        ConfigError: `device` is CUDA, and this onnxruntime (not onnxruntime-gpu) cannot use it.
    """
    if not storage.path_of(path).is_file():
        raise RunError(f"{path}: no such file")
    check_installed("onnx", "onnxruntime")
    import onnxruntime as ort

    device = device or torch.device("cpu")
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda":
        if "CUDAExecutionProvider" not in ort.get_available_providers():
            raise ConfigError(
                f"{path}: device=cuda, but this onnxruntime runs on the CPU only; install "
                "onnxruntime-gpu in its place, or use device=cpu"
            )
        # TF32 would round the pixels: see `lookalike.exporting.onnx_preprocess`.
        cuda = {"device_id": device.index or 0, "use_tf32": 0}
        providers.insert(0, ("CUDAExecutionProvider", cuda))
    path = storage.path_of(path)
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.enable_mem_pattern = False  # a plan of the memory serves one size only
    options.log_severity_level = 3  # errors; it warns of what the exporter left
    try:
        session = ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime has a class of its own for each kind of fault
        text = str(error).strip().splitlines()[0][:200]
        raise RunError(f"{path}: not an ONNX model that onnxruntime can run: {text}") from None
    metadata = session.get_modelmeta().custom_metadata_map
    about = _about(metadata.get(METADATA), path)
    artefact_digest.check(str(path), about)

    def run(images: np.ndarray) -> np.ndarray:
        return session.run(["embedding"], {"images": images})[0]

    def run_tensor(tensor: np.ndarray) -> np.ndarray:
        return session.run(["embedding"], {"tensor": tensor})[0]

    return ExportedModel(
        run_tensor if about.get("input_kind") == "tensor" else run,
        _dim(about),
        device=device,
        about=about,
        calibration=metadata.get(CALIBRATION),
        fingerprint=digest_of(path)[:32],
        path=Path(path).absolute(),
        preprocess=_preprocess_of(about) if about.get("input_kind") == "tensor" else None,
    )


def _dim(about: Mapping[str, Any]) -> int:
    """Length of the vectors, behind a projection where there is one."""
    model = about["model"]
    return int(model.get("projected_dim") or model["embedding_dim"])


def load_openvino(path: Place) -> ExportedModel:
    """The same for a model with `input` tensor by OpenVINO, on the CPU in float32.

    Raises:
        RunError: its input is picture, or it is no model of ours.
    """
    import onnx
    import openvino

    path = storage.path_of(path)
    metadata = {
        entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props
    }
    about = _about(metadata.get(METADATA), path)
    if about.get("input_kind") != "tensor":
        raise RunError(f"{path}: takes pictures, which OpenVINO is not certified for")
    # By default it may choose bfloat16.
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(path), "CPU", options)

    def run(tensor: np.ndarray) -> np.ndarray:
        return np.array(compiled(tensor)[0])

    return ExportedModel(
        run,
        _dim(about),
        about=about,
        preprocess=_preprocess_of(about),
        calibration=metadata.get(CALIBRATION),
        fingerprint=digest_of(path)[:32],
    )


def _preprocess_of(about: dict[str, Any]) -> Preprocess:
    return Preprocess.from_dict(about["model"]["preprocess"])


def _about(text: str | None, path: Place) -> dict[str, Any]:
    try:
        about = json.loads(text or "{}")
        if about["format"] == FORMAT_VERSION:
            return about
    except (ValueError, KeyError, TypeError):
        pass
    raise RunError(f"{path}: not written by lookalike export ({FORMAT_VERSION!r} is missing)")
