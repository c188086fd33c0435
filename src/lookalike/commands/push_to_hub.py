"""`lookalike.push_to_hub`: upload a model to the Hugging Face hub."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from lookalike import log, storage
from lookalike.commands.models import model_folder
from lookalike.data.inputs import place_of
from lookalike.errors import ConfigError, MissingExtraError, StorageError
from lookalike.exporting.artefact import ABOUT_FILE
from lookalike.log import logger
from lookalike.metrics.calibration import CALIBRATION_FILE
from lookalike.model.embedder import CONFIG_FILE, WEIGHTS_FILE, Embedder
from lookalike.storage import Place

_OWNER_AND_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_MODEL_FILES = (CONFIG_FILE, WEIGHTS_FILE, CALIBRATION_FILE)


def push_to_hub(
    model: Place | Embedder,
    repository: str,
    *,
    private: bool = True,
    message: str = "Upload a model of lookalike",
    revision: str | None = None,
) -> str:
    """Upload a model to a repository of the hub, which is created where missing.

    The token is `HF_TOKEN`, or that of `hf auth login`.

    Args:
        model: an export (a folder with its card and certificate, or a `.onnx` file), a run or a
            model folder (its model and calibration), or an embedder (its model).
        repository: OWNER/NAME.
        private: of a new repository; an existing one stays as it is.
        message: of the commit.
        revision: a branch; main by default.

    Returns:
        The address of the repository.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
        ConfigError: `repository` is no name of one.
        RunError: there is no model.
        StorageError: the hub refuses, or cannot be reached.
    """
    if not isinstance(repository, str) or not _OWNER_AND_NAME.fullmatch(repository):
        raise ConfigError(f"repository={repository!r} is not OWNER/NAME")
    if not isinstance(private, bool):
        raise ConfigError(f"private={private!r} must be True or False")
    source = model if isinstance(model, Embedder) else _source(model)
    try:
        import huggingface_hub
        from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError
        from huggingface_hub.utils import validate_repo_id
    except ImportError:
        raise MissingExtraError("huggingface_hub", "hub") from None
    try:
        validate_repo_id(repository)
    except HFValidationError:
        raise _unacceptable(repository) from None
    log.start()
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        _gather(source, Path(folder))
        api = huggingface_hub.HfApi()
        try:
            address = api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                commit_message=message,
                revision=revision,
            )
        except HFValidationError:
            raise _unacceptable(repository) from None
        except LocalTokenNotFoundError:
            raise StorageError(f"{repository}: no token of the hub; {_LOG_IN}") from None
        except Exception as error:  # of its HTTP library, which differs between versions
            raise StorageError(f"{repository}: {_reason(error)}") from None
    logger.info("%s: uploaded", address)
    return str(address)


_LOG_IN = "set HF_TOKEN, or run: hf auth login"


def _unacceptable(repository: str) -> ConfigError:
    return ConfigError(f"repository={repository!r} is not a name that the hub accepts")


def _source(model: Place) -> Path:
    """The ONNX file, or the folder of an export or a model, to upload.

    Raises:
        ConfigError: it is on another machine.
        RunError: there is none.
    """
    place = place_of("model", model)
    if storage.is_remote(place):
        raise ConfigError(
            f"{storage.public(place)}: copy the model to this machine first, then upload it"
        )
    path = storage.path_of(place)
    is_export = (path.is_file() and path.suffix == ".onnx") or (path / ABOUT_FILE).is_file()
    return path if is_export else model_folder(place)


def _gather(source: Path | Embedder, folder: Path) -> None:
    """Copy the files to upload into an empty folder."""
    if isinstance(source, Embedder):
        source.save(folder)
    elif source.is_file():
        shutil.copy(source, folder / "model.onnx")
    elif (source / ABOUT_FILE).is_file():  # an export: all of it
        shutil.copytree(source, folder, dirs_exist_ok=True)
    else:
        for name in _MODEL_FILES:
            if (source / name).is_file():
                shutil.copy(source / name, folder / name)


def _reason(error: Exception) -> str:
    """Cause of a refusal, without the text of the error, which may quote the request."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"the hub refuses the token ({status}); it needs the right to write. {_LOG_IN}"
    if status is not None:
        return f"the hub answers {status}"
    return f"the hub cannot be reached ({type(error).__name__})"
