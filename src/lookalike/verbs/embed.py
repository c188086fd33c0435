"""`lookalike embed`, and `lookalike.load`: a trained model at work."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike import fetched, log, storage
from lookalike.data.annotation import IMAGE_SUFFIXES
from lookalike.data.bad_images import BadImages
from lookalike.data.record import Record
from lookalike.distributed import World
from lookalike.errors import ConfigError, DataError, RunError
from lookalike.inference import embed_records
from lookalike.log import logger
from lookalike.memory import freed_memory_kept
from lookalike.model.embedder import CONFIG_FILE, Embedder
from lookalike.run import Run


def load(path: str | Path, *, device: str = "auto") -> Embedder:
    """The embedder of a run, ready for `embed`.

    Args:
        path: an output directory, or the folder `model` of one.
        device: auto, cpu or cuda.

    Raises:
        RunError: there is no model at `path`, or a broken one.
    """
    place = World.from_env(device).device
    folder = fetched.model_of(str(path)) if storage.is_remote(str(path)) else Path(path)
    if Run(folder).model.is_dir():
        return Embedder.load(Run(folder).model, place)
    if not (folder / CONFIG_FILE).exists():
        raise RunError(f"{path}: neither a run nor a model folder (no model/{CONFIG_FILE})")
    return Embedder.load(folder, place)


def embed(
    model: str | Path,
    images: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    threads: int = 4,
    device: str = "auto",
) -> int:
    """Embed images into a file.

    Args:
        model: an output directory, or a model folder.
        images: folders, list files (`.txt`: one path a line, with a label or without) or images.
        output: `NAME.parquet` with the columns path and vector, or `NAME.npy` with the vectors
            beside `NAME.paths.txt` with their paths, line by line.
        threads: threads that read and decode.
        device: auto, cpu or cuda.

    Returns:
        How many images were embedded. Those that cannot be read are named in warnings and left
        out.

    Raises:
        LookalikeError: no model, no images, or none that can be read.
    """
    if storage.is_remote(str(output)):
        raise ConfigError(f"{output}: vectors are written to this machine; give a local path")
    output = Path(output)
    if output.suffix not in (".npy", ".parquet"):
        raise ConfigError(f"{output}: the output's name must end in .npy or .parquet")
    log.start()
    embedder = load(model, device=device)
    uris = find_images([images] if isinstance(images, (str, Path)) else images)
    records = [Record(uri, "", uri, 0) for uri in uris]
    bad = BadImages()
    with freed_memory_kept(embedder.device):
        embedded = embed_records(embedder, records, threads=threads, bad=bad)
    for row, reason in sorted(bad.reasons.items()):
        logger.warning("left out: %s: %s", storage.public(uris[row]), reason)
    if len(embedded.rows) == 0:
        raise DataError(f"none of the {len(uris)} images can be read")
    paths = [uris[row] for row in embedded.rows.tolist()]
    _write(output, paths, embedded.vectors.numpy())
    logger.info("%s: %d vectors of %d", output, len(paths), embedder.embedding_dim)
    return len(paths)


def find_images(places: Sequence[str | Path]) -> list[str]:
    """The images that `places` name: folders (searched whole, sorted), lists, or images.

    Raises:
        DataError: a place does not exist, or there is no image in it.
    """
    found: list[str] = []
    for place in map(str, places):
        if storage.is_remote(place):
            found += _listed(place) if place.endswith(".txt") else [place]
            continue
        path = Path(storage.local_path(place))
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.name.lower().endswith(IMAGE_SUFFIXES))
            if not inside:
                raise DataError(f"{place}: no images in this folder")
            found += map(str, inside)
        elif not path.exists():
            raise DataError(f"{place}: no such file or folder")
        else:
            found += _listed(place) if path.suffix == ".txt" else [place]
    if not found:
        raise DataError("no images to embed")
    return found


def _listed(uri: str) -> list[str]:
    """The paths in a list; what follows the last blank is a label unless it belongs to a file."""
    try:
        text = storage.read_bytes(uri).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{storage.public(uri)}: not UTF-8 text") from None
    found = []
    for line in map(str.strip, text.splitlines()):
        if not line or line.startswith("#"):
            continue
        whole = storage.resolve(line, uri)
        parts = line.rsplit(None, 1)
        if len(parts) == 2 and (storage.is_remote(whole) or not storage.exists(whole)):
            whole = storage.resolve(parts[0], uri)
        found.append(whole)
    return found


def _write(output: Path, paths: list[str], vectors: np.ndarray) -> None:
    """Both forms are written aside and renamed, so that no half file is taken for a whole one."""
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = output.with_name(f".{output.name}.partial")
    if output.suffix == ".npy":
        with aside.open("wb") as stream:
            np.save(stream, vectors)
        lines = "".join(f"{path}\n" for path in paths)
        output.with_suffix(".paths.txt").write_text(lines, "utf-8")
    else:
        flat = pa.array(vectors.reshape(-1), type=pa.float32())
        table = pa.table(
            {
                "path": pa.array(paths, type=pa.string()),
                "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
            },
            metadata={"lookalike": json.dumps({"dim": vectors.shape[1], "unit_length": True})},
        )
        pq.write_table(table, aside)
    aside.replace(output)
