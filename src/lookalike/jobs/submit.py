"""`lookalike submit` and `lookalike jobs`: the same command on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from lookalike import storage
from lookalike.errors import ConfigError
from lookalike.jobs.engine import Engine, JobStatus, follow
from lookalike.jobs.request import (
    COMMANDS,
    JobRequest,
    command_job,
    is_workflow,
    training_job,
    workflow_job,
)
from lookalike.jobs.resources import Resources, read_resources
from lookalike.log import logger

_ENGINES = ("dlc", "kubernetes", "slurm")


def _module(on: str) -> Any:
    """The module of an engine.

    It has `render(job, resources)`, which gives the exact request; `shown(request)`, its text; and
    `connect(resources)`, the engine by the credentials of the environment or the vendor's files.

    Raises:
        ConfigError: there is none.
    """
    if on not in _ENGINES:
        raise ConfigError(f"--on {on} is not one of the engines ({', '.join(_ENGINES)})")
    return import_module(f"lookalike.jobs.{on}")


def _connected(on: str, resources: str | None, changes: dict[str, Any]) -> Engine:
    engine: Engine = _module(on).connect(read_resources(resources, changes))
    return engine


def send(
    request: Sequence[str],
    *,
    on: str,
    resources: str | None = None,
    dry_run: bool = False,
    wait: bool = False,
    write: Callable[[str], None] = print,
    pause: float = 5.0,
    **changes: Any,
) -> str:
    """`lookalike.submit`, of words that were parsed."""
    asked = read_resources(resources, changes)
    job = _job(request, asked)
    module = _module(on)
    rendered = module.render(job, asked)
    if dry_run:
        text: str = module.shown(rendered)
        return text
    engine: Engine = module.connect(asked)
    sent = engine.send(rendered)
    logger.info("%s: sent to %s", sent, on)
    if wait:
        follow(engine, sent, write, pause=pause)
    return sent


def _job(request: Sequence[str], resources: Resources) -> JobRequest:
    if not request:
        raise ConfigError(
            "nothing to submit: give a config.yaml, a workflow.yaml, or after -- a command "
            f"({', '.join(COMMANDS)}) with its arguments"
        )
    file, *overrides = request
    is_file = file.endswith((".yaml", ".yml")) or storage.path_of(file).is_file()
    if not is_file and file not in COMMANDS and "=" not in file:
        raise ConfigError(
            f"{file}: neither a YAML file nor a command that can be submitted "
            f"({', '.join(COMMANDS)})"
        )
    if file not in COMMANDS and "=" not in file and is_workflow(file):
        if overrides:
            raise ConfigError(f"{file}: a workflow takes no {overrides[0]!r}; write it in the file")
        return workflow_job(file, resources)
    if resources.folder is not None:
        raise ConfigError(f"folder={resources.folder}: only a workflow has one")
    if file in COMMANDS:
        return command_job(request, resources)
    for item in overrides:
        if "=" not in item:
            raise ConfigError(f"{item!r} is neither the one configuration file nor key=value")
    if "=" in file:
        raise ConfigError(f"{file}: give a configuration file before the settings")
    return training_job(file, overrides, resources)


def list_jobs(on: str, resources: str | None = None, **changes: Any) -> list[JobStatus]:
    """Jobs on an engine that lookalike sent, the newest first."""
    return _connected(on, resources, changes).jobs()


def job_status(job: str, on: str, resources: str | None = None, **changes: Any) -> JobStatus:
    """The state of a job."""
    return _connected(on, resources, changes).status(job)


def follow_job(
    job: str,
    on: str,
    resources: str | None = None,
    *,
    write: Callable[[str], None] = print,
    pause: float = 5.0,
    **changes: Any,
) -> JobStatus:
    """Write the log of a job until it ends.

    Raises:
        JobError: it failed or was stopped.
    """
    return follow(_connected(on, resources, changes), job, write, pause=pause)


def stop_job(job: str, on: str, resources: str | None = None, **changes: Any) -> None:
    """Ask a job to stop; training saves a checkpoint."""
    _connected(on, resources, changes).stop(job)
