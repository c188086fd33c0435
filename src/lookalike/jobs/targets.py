"""The engines by name: how each renders a job, and how it is reached."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol

from lookalike.errors import ConfigError
from lookalike.jobs.engine import Engine
from lookalike.jobs.request import JobRequest
from lookalike.jobs.resources import Resources

_HOMES = {
    "dlc": "lookalike.jobs.dlc",
    "kubernetes": "lookalike.jobs.kubernetes",
    "slurm": "lookalike.jobs.slurm",
}


class Target(Protocol):
    """A module of an engine."""

    @staticmethod
    def render(job: JobRequest, resources: Resources) -> Any:
        """The exact request; pure."""
        ...

    @staticmethod
    def connect(resources: Resources) -> Engine:
        """The engine, by the credentials of the environment or the vendor's files."""
        ...

    @staticmethod
    def shown(request: Any) -> str:
        """A request as text."""
        ...


def target(name: str) -> Target:
    """The engine of a name.

    Raises:
        ConfigError: there is none.
    """
    if name not in _HOMES:
        raise ConfigError(f"--on {name} is not one of the engines ({', '.join(_HOMES)})")
    module: Any = import_module(_HOMES[name])
    return module
