"""The job that runs a workflow: one machine, and a folder that outlives it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from lookalike import storage
from lookalike.config.yaml_lines import read_mapping
from lookalike.errors import ConfigError
from lookalike.jobs.request import JobRequest, file_text, secret_in
from lookalike.jobs.resources import Resources
from lookalike.workflow.workflow_graph import Node, Workflow

_OUTPUTS = ("run.output", "output")


def is_workflow(file: str) -> bool:
    """True for a file whose parts are nodes, not sections of a configuration."""
    tree, _ = read_mapping(file_text(file), file)
    return any(isinstance(part, dict) and "uses" in part for part in tree.values())


def workflow_job(file: str, resources: Resources) -> JobRequest:
    """The job that runs a workflow in `resources.folder`, or, without it, where its file lies.

    Raises:
        ConfigError: the workflow has faults or holds a secret, or the resources do not fit it.
    """
    text = file_text(file)
    path = storage.path_of(file).absolute()
    workflow = Workflow.parse(text, path, file)
    places = tuple(_places(workflow))
    signed = any(storage.unsigned(place) != place for _, place in places)
    if signed or storage.without_secrets(text) != text:
        raise secret_in(file)
    if resources.nodes > 1 or resources.workers is not None:
        raise ConfigError(
            f"{file}: a workflow runs on one machine and starts workers itself; leave out nodes "
            "and workers, and set run.workers in its training"
        )
    folder = resources.folder
    name = path.name if folder is not None else str(path)
    return JobRequest(
        name=resources.name or _name_of(path.stem),
        command="run",
        arguments=(name,),
        files={name: text} if folder is not None else {},
        folder=folder,
        starts_workers=True,
        places=(("folder", folder or str(path.parent)), *places),
    )


def _places(workflow: Workflow) -> Iterator[tuple[str, str]]:
    """Absolute paths and addresses in the settings; relative ones lie in the folder."""
    for node in workflow.nodes.values():
        for key in _keys(node):
            value = node.settings.get(key)
            for place in [value] if isinstance(value, str) else list(value or ()):
                if storage.is_remote(place) or PurePosixPath(place).is_absolute():
                    yield f"{node.name}.{key}", place


def _keys(node: Node) -> list[str]:
    inputs = [port.key for name, port in node.kind.inputs.items() if name not in node.inputs]
    return ["list"] if node.uses == "read" else [*inputs, *_OUTPUTS]


def _name_of(stem: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:50].strip("-") or "workflow"
