"""Files of workflows below the roots: listed, opened, checked, saved."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lookalike import storage
from lookalike.config.config import Config
from lookalike.errors import ConfigError, RunError, reason_of
from lookalike.studio.canvas_graph import CanvasGraph
from lookalike.studio.component_form import PATHS, is_path
from lookalike.studio.roots import YAML, Roots, is_object
from lookalike.workflow.run_workflow import FOLDER
from lookalike.workflow.workflow_draft import WorkflowDraft
from lookalike.workflow.workflow_graph import Fault, Node, Workflow

NEW = ""
"""Version of a file that is not there yet."""

_LARGEST = 2**20
_USES = re.compile(rb"^\s+uses:|[{,]\s*uses:", re.M)


@dataclass(frozen=True)
class OpenedWorkflow:
    """A workflow's file at one moment.

    Attributes:
        version: digest of its content; `NEW` if it is not there.
        graph: None where the canvas cannot hold it; then `error` says why.
    """

    path: Path
    version: str
    graph: CanvasGraph | None
    lost_comments: int = 0
    error: str = ""


class WorkflowFiles:
    """The workflows below the roots."""

    def __init__(self, roots: Roots) -> None:
        self.roots = roots
        self._saving = threading.Lock()
        self._looked_into: dict[Path, tuple[tuple[int, int], bool]] = {}

    def all(self) -> list[str]:
        """Names of files that look like workflows."""
        names = []
        for path in self.roots.yaml_files():
            with suppress(ConfigError, OSError):
                version = path.stat().st_mtime_ns, path.stat().st_size
                known, found = self._looked_into.get(path, (None, False))
                if known != version:
                    self._looked_into[path] = version, (found := _is_workflow(path))
                if found:
                    names.append(self.roots.name(self.path(self.roots.name(path))))
        return sorted(names)

    def path(self, name: str) -> Path:
        """The absolute path of a workflow's name.

        Raises:
            ConfigError: it is not below the roots, not of a visible folder, or no YAML file.
        """
        path = self.roots.resolve(name)
        if path.suffix not in YAML:
            raise ConfigError(f"{name[:120]!r}: the name of a workflow ends in .yaml")
        root = next(root for root in self.roots.folders if path.is_relative_to(root))
        is_hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if path.is_dir() or is_hidden:
            raise ConfigError(f"{name[:120]!r}: not the name of a workflow's file")
        return path

    def states(self, path: Path) -> Path:
        """The folder of a workflow's states.

        Raises:
            ConfigError: it leads out of the roots.
        """
        return self.roots.resolve(str(path.parent / FOLDER / path.stem))

    def open(self, name: str) -> OpenedWorkflow:
        """The canvas of a file; an empty one where there is none.

        Raises:
            ConfigError: as `path`, or it cannot be read.
        """
        path = self.path(name)
        content = _content(path)
        if content is None:
            return OpenedWorkflow(path, NEW, CanvasGraph())
        version = _version(content)
        try:
            draft = WorkflowDraft.read(content.decode("utf-8-sig"), path.name)
            graph = CanvasGraph.of(draft)
        except ValidationError:
            error = f"{path.name}: too large for the canvas"
        except UnicodeDecodeError:
            error = f"{path.name}: is not UTF-8 text"
        except ConfigError as refusal:
            error = str(refusal)
        else:
            return OpenedWorkflow(path, version, graph, draft.lost_comments)
        return OpenedWorkflow(path, version, None, error=error)

    def check(self, path: Path, text: str) -> list[Fault]:
        """The faults of a text in the words of `lookalike run`, and paths that lead out."""
        if not text.strip():
            return []
        try:
            workflow, faults = Workflow.check(text, path, path.name)
        except ConfigError as refusal:
            return [Fault(1, line, text=line) for line in str(refusal).splitlines()]
        for node in workflow.nodes.values():
            faults += _path_faults(node, path, self.roots)
        return sorted(faults)

    def save(self, path: Path, text: str, version: str) -> str:
        """Replace a file that is still the one of `version`; the new version.

        Raises:
            RunError: it has changed since.
            ConfigError: its folder is not there.
        """
        if not path.parent.is_dir():
            raise ConfigError(f"{self.roots.name(path.parent)}: no such folder")
        with self._saving:
            content = _content(path)
            if (NEW if content is None else _version(content)) != version:
                raise RunError(
                    f"{path.name}: another program or page has changed the file since it was "
                    "opened here; reload the page to see it, without the changes made here"
                )
            storage.write_text(path, text)
        return _version(text.encode())

    def runnable(self, path: Path) -> Workflow:
        """The workflow of a file without faults.

        Raises:
            ConfigError: it has some, or a path that leads out of the roots.
        """
        workflow = Workflow.load(path)
        faults = [
            f for node in workflow.nodes.values() for f in _path_faults(node, path, self.roots)
        ]
        if faults:
            raise ConfigError("\n".join(fault.message for fault in sorted(faults)))
        self.states(path)
        return workflow


def _is_workflow(path: Path) -> bool:
    """True if most likely; opening it decides."""
    with path.open("rb") as stream:
        return _USES.search(stream.read(_LARGEST)) is not None


def _content(path: Path) -> bytes | None:
    """The content of a file; None if there is none."""
    try:
        with path.open("rb") as stream:
            content = stream.read(_LARGEST + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path.name}: {reason_of(error)}") from None
    if len(content) > _LARGEST:
        raise ConfigError(f"{path.name}: has more than {_LARGEST:,} bytes")
    return content


def _version(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _path_faults(node: Node, file: Path, roots: Roots) -> Iterator[Fault]:
    """A fault for each path of a node that leads out of the roots, or is a missing input."""
    connected = {node.kind.inputs[port].key for port in node.inputs}
    inputs = {port.key for port in node.kind.inputs.values()} | {"list"}
    for key, value in node.settings.items():
        for text in _paths(node, key, value):
            problem = ""
            try:
                place = roots.place(_from_folder(text, file.parent))
            except ConfigError as refusal:
                problem = f"{key}={refusal}"
            else:
                is_read = key in inputs and key not in connected and not storage.is_remote(place)
                if is_read and not Path(place).exists():
                    problem = f"{text}: no such file or folder"
            if problem:
                where = f"{file.name}:{node.line}: {node.name}: {problem}"
                yield Fault(node.line, where, node.name, key, f"{node.name}: {problem}")


def _paths(node: Node, key: str, value: Any) -> list[str]:
    values = value if isinstance(value, list | tuple) else [value]
    texts = [each for each in values if isinstance(each, str)]
    if key == "model.backbone":
        parts = [text.partition(":") for text in texts]
        return [place for kind, colon, place in parts if colon and kind == "local-dir"]
    if key == "data.classes" and isinstance(value, list | tuple):
        return []
    if node.kind.settings is Config:
        return [text for text in texts if is_path(key, text)]
    return texts if key in PATHS else []


def _from_folder(text: str, folder: Path) -> str:
    """A path of a workflow as one of the studio; what is no plain path stays, to be refused."""
    if is_object(text) or text.startswith(("/", "~")) or re.match(r"[a-zA-Z][\w+.-]*:", text):
        return text
    return f"{folder}/{text}"
