"""Runs of workflows: started, stopped, and the state of each node by their files."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lookalike import storage
from lookalike.errors import ConfigError, LookalikeError, MissingFileError, RunError
from lookalike.storage.file_lock import is_held
from lookalike.studio.page_frame import address
from lookalike.studio.roots import Roots
from lookalike.studio.run_processes import RunProcesses, ask, tail
from lookalike.studio.watched_runs import WatchedRuns
from lookalike.studio.workflow_files import WorkflowFiles
from lookalike.workflow.node_state import LOG, NodeState
from lookalike.workflow.workflow_graph import Node, Workflow

RUN = "run"
INTERRUPTED = "interrupted"

_TOLD = ("kept", "held back", "would run")
_LARGEST_SCORES = 64 * 2**20
_ANSWER_SECONDS = 120.0


@dataclass
class NodeView:
    """State of a node, from its files.

    Attributes:
        state: that of `NodeState`, or `interrupted` where its process has ended.
        note: what the last run said of it, or how far a training is.
        part: of a training's steps that are done, from 0 to 1; None of others.
        results: `text` and, where it can be opened, `address`.
    """

    state: str
    seconds: float = 0.0
    error: str = ""
    note: str = ""
    part: float | None = None
    results: list[dict[str, str]] = field(default_factory=list)


class WorkflowRuns:
    """Runs of the workflows below the roots."""

    def __init__(self, files: WorkflowFiles, processes: RunProcesses, runs: WatchedRuns) -> None:
        self.files, self.processes, self.watched = files, processes, runs

    @property
    def _roots(self) -> Roots:
        return self.files.roots

    def start(self, path: Path, *, only: str = "", again: str = "") -> None:
        """Run a workflow as a process of its own, and return at once.

        Raises:
            ConfigError: its file has faults.
            RunError: it is running.
        """
        workflow = self.files.runnable(path)
        for name in filter(None, (only, again)):
            if name not in workflow.nodes:
                raise ConfigError(f"{path.name}: there is no node {name}")
        words = [RUN, str(path)]
        words += ["--only", only] if only else []
        words += ["--again", again] if again else []
        with self.processes.one_at_a_time():
            if self.is_running(path):
                raise RunError(f"{path.name}: is running; stop it first")
            self.processes.launch(str(path), lambda folder: words)

    def stop(self, path: Path) -> None:
        """Interrupt a run; training saves a checkpoint first.

        Raises:
            RunError: the studio has started none that runs.
        """
        self.processes.stop(RUN, str(path), signal.SIGINT)

    def plan(self, path: Path) -> tuple[dict[str, str], str]:
        """Output of `lookalike run --dry-run`: a line for each node, and its error."""
        self.files.runnable(path)
        _, text = ask([RUN, str(path), "--dry-run"], _ANSWER_SECONDS)
        return _notes(text), text.rpartition("error: ")[2].strip() if "error: " in text else ""

    def is_running(self, path: Path) -> bool:
        """True while a process runs the workflow, started here or elsewhere."""
        started = self.processes.running(RUN, str(path)) is not None
        return started or is_held(self.files.states(path) / ".lock")

    def view(self, path: Path) -> dict[str, Any]:
        """State of the run and of each node that has a state, by name."""
        running = self.is_running(path)
        ended = None if running else self.processes.newest(RUN, str(path))
        notes = {} if ended is None else _notes(ended.output())
        views = {name: self._node(path, node, running) for name, node in self._nodes(path).items()}
        for name, view in views.items():
            view.note = view.note or notes.get(name, "")
        has_error = ended is None or any(view.error for view in views.values())
        return {
            "running": running,
            "can_stop": self.processes.running(RUN, str(path)) is not None,
            "error": "" if ended is None or has_error else ended.error(),
            "nodes": {name: vars(view) for name, view in views.items()},
        }

    def log(self, path: Path, name: str) -> str:
        """The end of a node's log; "" for a node that is not in the file."""
        if name not in self._nodes(path):
            return ""
        return tail(self._file(self._folder(path, name) / LOG))

    def result(self, path: Path, name: str, port: str) -> Path:
        """The file that a node has made.

        Raises:
            MissingFileError: there is none.
            ConfigError: it is not below the roots.
        """
        output = NodeState.read(self._folder(path, name)).outputs.get(port)
        found = None if output is None else self._roots.resolve(output.place)
        if found is None or not found.is_file():
            raise MissingFileError(f"{name}: has no file {port}")
        return found

    def _folder(self, path: Path, name: str) -> Path:
        if name not in self._nodes(path):
            raise ConfigError(f"{path.name}: there is no node {name[:80]}")
        return self._file(self.files.states(path) / name)

    def _file(self, path: Path) -> Path:
        return self._roots.resolve(str(path))

    def _nodes(self, path: Path) -> dict[str, Node]:
        """The nodes of the file that can be read."""
        try:
            text = path.read_bytes().decode("utf-8-sig")
            return Workflow.check(text, path)[0].nodes
        except (OSError, UnicodeDecodeError, ConfigError):
            return {}

    def _node(self, path: Path, node: Node, running: bool) -> NodeView:
        folder = self._file(self.files.states(path) / node.name)
        try:
            state = NodeState.read(folder)
        except LookalikeError as error:
            return NodeView("failed", error=str(error))
        name = INTERRUPTED if state.state == "running" and not running else state.state
        view = NodeView(name, state.seconds, state.error)
        if node.uses == "train" and state.attempt:
            self._add_training(view, node, folder / str(state.attempt))
        for port, output in state.outputs.items():
            view.results += self._results(path, node, port, output.place)
        return view

    def _add_training(self, view: NodeView, node: Node, attempt: Path) -> None:
        """Link the run of a training, and say how far it is."""
        place = str(node.settings.get("run.output") or attempt / "run")
        if storage.is_remote(place):
            return
        try:
            run = self.watched.one(str(attempt.parents[3] / place))
        except (ConfigError, IndexError):
            return
        opened = {"/watch/run": "Run: curves, log, scores"}
        opened |= {"/watch/report": "Report"} if run.has_report else {}
        view.results += [
            {"text": text, "address": address(path, run=run.name)} for path, text in opened.items()
        ]
        if view.state == "running":
            view.part = run.part
            view.note = f"{run.step:,} of {run.steps:,} steps" if run.steps else "reading lists"
            view.note += f", {run.left} left" if run.left else ""
        if run.best and view.state == "done":
            view.note = _scores_text(run.best)

    def _results(self, path: Path, node: Node, port: str, place: str) -> list[dict[str, str]]:
        shown = storage.public(place)
        try:
            found = None if storage.is_remote(place) else self._roots.resolve(place)
        except ConfigError:
            found = None
        if found is not None:
            shown = self._roots.name(found)
        one = {"text": f"{port}: {shown}"}
        if found is not None and found.is_file() and node.uses != "read":
            file = self._roots.name(path)
            one["address"] = address("/workflow/result", file=file, node=node.name, port=port)
        results = [one] if node.uses != "train" else []
        if port == "scores" and found is not None and (text := _read_scores(found)):
            results.insert(0, {"text": text})
        return results


def _notes(text: str) -> dict[str, str]:
    """Lines of `lookalike run` about nodes that did not run."""
    found = {}
    for line in text.splitlines():
        words = line.split("\t")
        if len(words) > 1 and words[1] in _TOLD:
            why = f": {words[2]}" if words[1] != "kept" and len(words) > 2 else ""
            found[words[0]] = words[1] + why
    return found


def _read_scores(file: Path) -> str:
    try:
        if file.stat().st_size > _LARGEST_SCORES:
            return ""
        return _scores_text(json.loads(file.read_text("utf-8")))
    except (OSError, ValueError):
        return ""


def _scores_text(scores: Any) -> str:
    names = {"recall_at_1": "Recall@1", "map_at_r": "MAP@R"}
    values = (
        {name: scores.get(key) for key, name in names.items()} if isinstance(scores, dict) else {}
    )
    return ", ".join(f"{n} {100 * v:.1f} %" for n, v in values.items() if isinstance(v, float))
