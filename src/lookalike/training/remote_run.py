"""Settings of local and remote runs, and download of a remote run to resume it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from lookalike import storage
from lookalike.config.config import Config
from lookalike.errors import RunError
from lookalike.log import logger
from lookalike.run import CONFIG, RESOLVED, Run
from lookalike.storage.atomic import partial_path, put_in_place
from lookalike.storage.cache_folder import cache_entry
from lookalike.storage.local_files import local_folder
from lookalike.training import checkpoint

CHECKPOINTS = "checkpoints"
_VERSIONS = ".versions.json"


def workdir(output: str, chosen: str | None = None) -> Path:
    """Local directory of a run with a remote `output`.

    Args:
        output: a URI without secrets; `?endpoint=` is allowed.
        chosen: `run.workdir`; None for a folder of the user's cache.

    Raises:
        RunError: the URI has user info or another query, which would be saved with the run.
        ConfigError: `chosen` is a URI.
    """
    _, query = storage.split_query(output)
    if storage.unsigned(output) != output or (query and not query.startswith("?endpoint=")):
        raise RunError(
            f"run.output={storage.public(output)}: has user info or a query in it, which would be "
            "saved with the run; credentials belong in the environment"
        )
    return local_folder(chosen, "run.workdir") if chosen else cache_entry("runs", output)


def saved_config(output: str, *, asked: bool = False) -> Config | None:
    """Settings of a local or remote run; None where there is no run.

    With `asked` only the request (config.yaml), else every setting as it ran (resolved.yaml; older
    runs have a complete config.yaml instead).

    Raises:
        ConfigError: the file is broken; names it.
        StorageError: the storage does not answer.
    """
    for name in (CONFIG,) if asked else (RESOLVED, CONFIG):
        content = storage.read_if_exists(storage.join(output, name))
        if content is not None:
            return Config.load(storage.public(storage.join(output, name)), content=content)
    return None


def resume_from(output: str, local: Run) -> None:
    """Download the newest complete checkpoint and its run, where `local` is behind.

    Raises:
        RunError: there are checkpoints, but none is complete, there or here.
        StorageError: the storage does not answer, or a file changed meanwhile.
    """
    sizes = storage.sizes_below(output)
    if CONFIG not in sizes:
        return
    here, _ = checkpoint.newest(local.checkpoints)
    damaged: list[str] = []
    while True:
        found, faults = newest(output, sizes, before=damaged[-1] if damaged else None)
        for fault in faults:
            logger.warning("%s; skipped", fault)
        if found is None and here is None and (faults or damaged):
            raise checkpoint.none_complete(storage.public(output))
        if here is not None and (found is None or here.name >= found):
            return
        if found is None or _downloaded(output, found, local):
            break
        damaged.append(found)
    best = _best(output, sizes)
    if best is not None and best != found and not _downloaded(output, best, local):
        best = None
    others = [name for name in sizes if not name.startswith((f"{CHECKPOINTS}/", "."))]
    others = [name for name in others if not name.endswith("/")]  # folders of some clients
    if outside := [name for name in others if not _stays_inside(name)]:
        raise RunError(
            f"{storage.public(output)}: holds the key {outside[0]!r}, which is no file of a run "
            "and would be written outside of its directory; remove it there"
        )
    for name in sorted(others, key=lambda name: name == CONFIG):  # the last one makes it a run
        storage.fetch_file(storage.join(output, name), local.path / name, sizes[name])
    if best is not None:
        storage.write_text(local.checkpoints / "best", best + "\n")
    if found is not None:
        storage.write_text(local.checkpoints / "latest", found + "\n")
    logger.info("downloaded %s from %s to %s", found, storage.public(output), local.path)


def _downloaded(output: str, name: str, local: Run) -> bool:
    """Download a checkpoint; False if it is damaged."""
    try:
        fetch_checkpoint(output, name, local.checkpoints)
    except RunError as error:
        logger.warning("%s; skipped", error)
        return False
    return True


def newest(
    output: str, sizes: dict[str, int], *, before: str | None = None
) -> tuple[str | None, list[str]]:
    """Name of the newest complete checkpoint of a remote run, and the faults of newer ones.

    `sizes` are those of all files of the run; only checkpoints older than `before` are considered.
    """
    faults: list[str] = []
    names = {name.split("/")[1] for name in sizes if name.startswith(f"{CHECKPOINTS}/step-")}
    for name in sorted((n for n in names if before is None or n < before), reverse=True):
        prefix = f"{CHECKPOINTS}/{name}/"
        below = {k.removeprefix(prefix): size for k, size in sizes.items() if k.startswith(prefix)}
        try:
            _complete_state(storage.join(output, f"{CHECKPOINTS}/{name}"), below)
        except RunError as error:
            faults.append(str(error))
        else:
            return name, faults
    return None, faults


def fetch_checkpoint(output: str, name: str, folder: Path) -> None:
    """Download a checkpoint into `folder`, where it appears when it is complete.

    Files of the same `id` that exist already are linked.

    Raises:
        RunError: it is damaged there.
        StorageError: the storage does not answer, or a file changed meanwhile.
    """
    place = f"{CHECKPOINTS}/{name}"
    shown = storage.public(storage.join(output, place))
    text = storage.read_bytes(storage.join(output, f"{place}/{checkpoint.STATE_FILE}"))
    state = checkpoint.parse_state(text, shown)
    state_here = folder / name / checkpoint.STATE_FILE
    same = "id" in state and state_here.exists() and state_here.read_bytes() == text
    partial = partial_path(folder / name)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for file, size in state["files"].items():
        if same and checkpoint.is_as_written(folder / name, file, state):
            os.link(folder / name / file, partial / file)
        else:
            storage.fetch_file(storage.join(output, f"{place}/{file}"), partial / file, size)
    storage.write_bytes(str(partial / checkpoint.STATE_FILE), text)
    try:
        checkpoint.read_state(partial, verify=True)
    except RunError as error:
        shutil.rmtree(partial)
        raise RunError(str(error).replace(str(partial), shown)) from None
    put_in_place(partial, folder / name)


def state_text(output: str, name: str) -> str | None:
    """Text of state.json of a remote checkpoint; None if that is not complete."""
    folder = storage.join(output, f"{CHECKPOINTS}/{name}")
    try:
        return _complete_state(folder, storage.sizes_below(folder)).decode()
    except RunError:
        return None


def _complete_state(folder: str, sizes: Mapping[str, int]) -> bytes:
    """Content of state.json of a remote checkpoint with files of these sizes.

    Raises:
        RunError: the checkpoint is not complete.
    """
    shown = storage.public(folder)
    content = storage.read_if_exists(storage.join(folder, checkpoint.STATE_FILE))
    if content is None:
        raise RunError(f"{shown}: {checkpoint.STATE_FILE} is missing: its upload was not complete")
    checkpoint.parse_state(content, shown, sizes)
    return content


def _stays_inside(name: str) -> bool:
    """True if a key below a remote folder is a relative path without `..`."""
    return not name.startswith("/") and ".." not in name.split("/")


def _best(output: str, sizes: dict[str, int]) -> str | None:
    """Name of the best checkpoint, if that is complete."""
    if f"{CHECKPOINTS}/best" not in sizes:
        return None
    name = storage.read_bytes(storage.join(output, f"{CHECKPOINTS}/best")).decode().strip()
    known = re.fullmatch(r"step-\d+", name) is not None
    return name if known and state_text(output, name) is not None else None
