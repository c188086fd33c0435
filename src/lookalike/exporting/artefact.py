"""Artefacts: atomic output, here and in object storage, and their description."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lookalike import storage
from lookalike.data.image_size import height_width
from lookalike.errors import RunError, StorageError
from lookalike.exporting import CALIBRATION, FORMAT_VERSION, METADATA, comparable_with
from lookalike.exporting.certificate import Certificate
from lookalike.metrics.calibration import CALIBRATION_FILE
from lookalike.model.embedder import Embedder
from lookalike.storage.atomic import partial_path, put_in_place
from lookalike.storage.file_lock import locked
from lookalike.storage.local_files import make_folder

ABOUT_FILE = f"{METADATA}.json"

# Mark a folder as a model, and as an exported one: written last, removed first.
_LAST = ("config.json", ABOUT_FILE)
_OPTIONAL = (CALIBRATION_FILE, "neck.safetensors")

_PACKAGES = (
    "lookalike",
    "torch",
    "timm",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "safetensors",
    "openvino",
)


@contextmanager
def atomic_output(output: Path) -> Iterator[Path]:
    """A path for a file or folder that is renamed to `output` at the end; after an error nothing
    is left of it, and what was at `output` stays. A link stays too: what it leads to is replaced.

    Raises:
        RunError: `output` is a folder that no export wrote or a mount point, or cannot be written.
        StorageError: another process is writing it.
    """
    if output.is_dir() and not (output / ABOUT_FILE).exists():
        raise RunError(f"{output}: is a folder, and no exported one; choose another --output")
    if output.is_mount():
        raise RunError(f"{output}: is a mount point, which cannot be replaced; name a folder in it")
    output = output.resolve()
    aside = partial_path(output)
    make_folder(output.parent, output)
    with ExitStack() as stack:
        lock = aside.with_suffix(".lock")
        busy = f"{output}: another process is writing this; wait for it, or choose another --output"
        stack.enter_context(locked(lock, busy))
        stack.callback(lock.unlink, missing_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        make_folder(aside, output)
        stack.callback(shutil.rmtree, aside, ignore_errors=True)
        yield aside / output.name
        put_in_place(aside / output.name, output)


@contextmanager
def atomic_upload(uri: str) -> Iterator[Path]:
    """The same for object storage: a path of this machine, uploaded at the end.

    Raises:
        RunError: `uri` is a folder that no export wrote.
        StorageError: the storage does not answer, or the upload failed; names the local copy.
    """
    below = storage.sizes_below(uri)  # before the work: fails where the storage does not answer
    if below and ABOUT_FILE not in below:
        raise RunError(
            f"{storage.public(uri)}: is a folder, and no exported one; choose another --output"
        )
    aside = Path(tempfile.mkdtemp(prefix="lookalike-"))
    made = aside / storage.public(uri).rstrip("/").rsplit("/", 1)[-1]
    try:
        yield made
    except BaseException:
        shutil.rmtree(aside)
        raise
    try:
        _send(made, uri, below)
    except StorageError as error:
        raise StorageError(f"{error}; what was exported is in {made}") from None
    shutil.rmtree(aside)


def _send(made: Path, uri: str, before: Mapping[str, int]) -> None:
    """Upload an artefact; of a folder in an order in which no half of it is taken for a model."""
    if not made.is_dir():
        storage.write_file(made, uri)
        return
    for name in reversed(_LAST):
        storage.remove_file(storage.join(uri, name))
    names = sorted(str(path.relative_to(made)) for path in made.rglob("*") if path.is_file())
    for name in {name for name in _OPTIONAL if name in before} - set(names):
        storage.remove_file(storage.join(uri, name))
    for name in sorted(names, key=lambda name: _LAST.index(name) if name in _LAST else -1):
        storage.write_file(made / name, storage.join(uri, name))


def describe(
    embedder: Embedder,
    format: str,
    precision: str,
    certificate: Certificate,
    own: str | None = None,
    *,
    input: str = "picture",
    certified_with: Sequence[str] = (),
    measured_on: str = "",
) -> dict[str, Any]:
    """Description of an artefact, as JSON.

    Args:
        own: the fingerprint of the embedder that `load` makes of it.
        certified_with: the packages that ran it within the bounds.
        measured_on: the list of the certificate.
    """
    versions = _versions()
    height, width = height_width(embedder.preprocess.image_size)
    taken = "RGB pictures of one size, any batch, height and width: uint8 (B, H, W, 3)"
    if input == "tensor":
        taken = (
            f"RGB, preprocessed as by `model.preprocess`: float32 (B, 3, {height}, {width}), "
            "(x / 255 - mean) / std"
        )
    runtimes = [f"{name} {versions.get(name, '')}".strip() for name in certified_with]
    return {
        "format": FORMAT_VERSION,
        "artefact": format,
        "precision": precision,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": embedder.describe(),
        "trained": {"fingerprint": embedder.fingerprint(), "exported": own},
        "input": taken,
        "input_kind": input,
        "output": f"unit vectors: float32 (B, {embedder.embedding_dim})",
        "versions": versions,
        "certified_for": runtimes,
        "other_runtimes": (
            "not certified: measure them before use; the same graph may give other vectors there"
            + ("" if input == "tensor" else ", and does in OpenVINO 2026.4 (use --input tensor)")
        ),
        "measured_on": measured_on,
        "certificate": certificate.to_dict(),
    }


def metadata(about: Mapping[str, Any], calibration: str | None) -> dict[str, str]:
    """Description and calibration as texts by key, for formats with metadata."""
    texts = {METADATA: json.dumps(about)}
    return texts if calibration is None else {**texts, CALIBRATION: calibration}


def write_description(folder: Path, about: Mapping[str, Any], calibration: str | None) -> None:
    """Description and calibration as files of a folder."""
    (folder / ABOUT_FILE).write_text(json.dumps(about, indent=2) + "\n", "utf-8")
    if calibration is not None:
        (folder / CALIBRATION_FILE).write_bytes(calibration.encode())


def exported_from(folder: Path) -> dict[str, str] | None:
    """Fingerprint of an exported folder -> that of its trained model; None for a model that was
    not exported, or whose certified drift exceeds `COMPARABLE`.
    """
    try:
        about = json.loads((folder / ABOUT_FILE).read_text("utf-8"))
        own, trained = about["trained"]["exported"], comparable_with(about)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return {own: trained} if trained is not None and isinstance(own, str) else None


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that this format does not need
    return found
