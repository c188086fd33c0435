"""`lookalike run`: the nodes of a workflow, each after those that it depends on."""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lookalike import log, storage
from lookalike.data.inputs import place_of
from lookalike.errors import ConfigError, DataError, Interrupted, LookalikeError, RunError
from lookalike.log import logger
from lookalike.storage import Place
from lookalike.storage.file_lock import locked
from lookalike.storage.local_files import writing
from lookalike.workflow.node_calls import CALLS, Call
from lookalike.workflow.node_state import LOG, NodeState, Output, content_of, fingerprint_of
from lookalike.workflow.workflow_graph import Node, Workflow

FOLDER = ".lookalike"

Did = Literal["done", "kept", "failed", "held back", "would run"]


@dataclass(frozen=True)
class NodeOutcome:
    """Outcome of a node.

    Attributes:
        did: `kept` for one that was done before, `held back` for one that depends on a failed one,
            `would run` in a dry run.
        why: the error of a failed one; else the reason.
        seconds: that it took, now or before.
        outputs: places by port.
    """

    node: str
    uses: str
    did: Did
    why: str
    seconds: float
    outputs: dict[str, str]


@dataclass(frozen=True)
class WorkflowOutcome:
    """Outcome of a workflow.

    Attributes:
        folder: of states, logs and results.
        nodes: in the order in which they ran.
    """

    folder: Path
    nodes: list[NodeOutcome]

    @property
    def failed(self) -> list[NodeOutcome]:
        """The nodes that failed."""
        return [one for one in self.nodes if one.did == "failed"]

    def failure(self) -> LookalikeError | None:
        """The error that names the nodes that failed; None where none did."""
        lines = [
            f"{one.node}: {one.why} (log: {self.folder / one.node / LOG})" for one in self.failed
        ]
        return RunError("\n".join(lines)) if lines else None


def run_workflow(
    file: Place, *, only: str | None = None, again: str | None = None, dry_run: bool = False
) -> WorkflowOutcome:
    """Run the nodes of a workflow, and keep those whose settings and inputs did not change.

    Relative paths in the file are from its folder, which is the current directory during the call.
    States, logs and results lie in `.lookalike/NAME/` beside it. A node that fails holds back those
    that depend on it; the others run.

    Args:
        file: the workflow; see docs/workflow.md.
        only: the one node to run; those that it depends on have run before.
        again: a node that runs even if nothing changed.
        dry_run: say what would run, and run nothing.

    Returns:
        What became of each node; a failed one is no exception, see `WorkflowOutcome.failure`.

    Raises:
        ConfigError: a fault of the file, or no such node.
        RunError: the workflow runs in another process.
        Interrupted: a signal stopped training; the next call resumes it.
    """
    file = place_of("file", file)
    workflow = Workflow.load(file)
    for name in filter(None, (only, again)):
        if name not in workflow.nodes:
            raise ConfigError(
                f"{file}: there is no node {name}; nodes: {', '.join(workflow.nodes)}"
            )
    log.start()
    folder = workflow.path.parent / FOLDER / workflow.path.stem
    with contextlib.chdir(workflow.path.parent):
        if dry_run:
            return _Engine(workflow, file, folder, only, again, dry_run=True).run()
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".lock", f"{file}: is being run by another process", error=RunError):
            return _Engine(workflow, file, folder, only, again, dry_run=False).run()


@dataclass(frozen=True)
class _Given:
    """Settings of a node with its inputs in them, and what lies at those places."""

    settings: dict[str, Any]
    fingerprint: str


class _Engine:
    def __init__(
        self,
        workflow: Workflow,
        file: Place,
        folder: Path,
        only: str | None,
        again: str | None,
        *,
        dry_run: bool,
    ) -> None:
        self._workflow, self._folder, self._dry_run = workflow, folder, dry_run
        self._file = shlex.quote(os.fspath(file))
        self._only, self._again = only, again
        self._outputs: dict[str, dict[str, Output]] = {}
        self._found: dict[str, NodeOutcome] = {}

    def run(self) -> WorkflowOutcome:
        for node in self._workflow.nodes.values():
            if self._only in (None, node.name):
                self._found[node.name] = self._node(node)
            else:
                state = NodeState.read(self._folder / node.name)
                if state.state == "done":
                    self._outputs[node.name] = _outputs(node, state)
        return WorkflowOutcome(self._folder, list(self._found.values()))

    def _node(self, node: Node) -> NodeOutcome:
        waits = self._waits_for(node)
        if waits is not None:
            return waits
        folder = self._folder / node.name
        before = NodeState.read(folder)
        try:
            given = self._given(node)
        except (LookalikeError, OSError) as error:
            why = _refusal(error)
            with self._logging(folder):
                return self._failed(node, before, why)
        reason = self._reason(node, before, given)
        if reason is None:
            self._outputs[node.name] = _outputs(node, before)
            logger.info("%s: kept, nothing changed", node.name)
            return _outcome(node, "kept", "nothing changed", before)
        if self._dry_run:
            return _outcome(node, "would run", reason, NodeState())
        return self._run(node, before, given, reason)

    def _waits_for(self, node: Node) -> NodeOutcome | None:
        """The outcome of a node that cannot run, or not yet, for want of another."""
        for source in node.inputs.values():
            if source.port in self._outputs.get(source.node, {}):
                continue
            giver = self._found.get(source.node)
            if giver is None:
                raise RunError(
                    f"{node.name}: its input {source} is not there yet; run {source.node} first: "
                    f"lookalike run {self._file} --only {source.node}"
                )
            if self._dry_run and giver.did == "would run":
                return _outcome(node, "would run", f"after {giver.node}", NodeState())
            why = f"depends on {giver.node}"
            if not self._dry_run:
                logger.info("%s: held back, %s", node.name, why)
            return _outcome(node, "held back", why, NodeState())
        return None

    def _given(self, node: Node) -> _Given:
        settings = dict(node.settings)
        inputs: dict[str, list[Output]] = {}
        for port, needed in node.kind.inputs.items():
            source, value = node.inputs.get(port), settings.get(needed.key)
            if source is not None:
                output = self._outputs[source.node][source.port]
                if self._only is not None:  # its node is not looked at: what lies there now counts
                    kind = self._workflow.nodes[source.node].kind.outputs[source.port].type
                    output = replace(output, digest=content_of(output.place, kind))
                if value is not None:
                    shown = storage.public(value) if isinstance(value, str) else value
                    logger.info(
                        "%s: %s is connected, and wins over %s=%s",
                        node.name, source, needed.key, shown,
                    )  # fmt: skip
                settings[needed.key] = output.place
                inputs[port] = [output]
            elif value is not None:
                places = [value] if isinstance(value, str) else value
                inputs[port] = [Output(p, content_of(p, needed.types[0])) for p in places]
        if node.uses == "read":
            place = settings["list"]
            inputs["list"] = [Output(place, content_of(place, "list"))]
        return _Given(settings, fingerprint_of(node.uses, settings, inputs))

    def _reason(self, node: Node, before: NodeState, given: _Given) -> str | None:
        """Reason that a node runs; None if it is kept."""
        if node.name == self._again:
            return "asked for again"
        if before.state == "new":
            return "has not run"
        if before.state != "done":
            was = {"running": "was interrupted", "stopped": "was stopped", "failed": "failed"}
            return was[before.state]
        if before.fingerprint != given.fingerprint:
            return "settings or inputs changed"
        for port, output in _outputs(node, before).items():
            try:
                same = content_of(output.place, node.kind.outputs[port].type) == output.digest
            except (DataError, OSError, KeyError):
                return f"its output {port} is gone"
            if not same:
                return f"its output {port} was changed"
        return None

    def _run(self, node: Node, before: NodeState, given: _Given, reason: str) -> NodeOutcome:
        folder = self._folder / node.name
        resume = (
            node.kind.continues
            and node.name != self._again
            and before.state in ("running", "stopped", "failed")
            and before.fingerprint == given.fingerprint
        )
        attempt = before.attempt if resume else before.attempt + 1
        state = NodeState("running", given.fingerprint, attempt)
        place = folder / str(attempt)
        with writing(place):
            place.mkdir(parents=True, exist_ok=True)
        state.write(folder)
        began = time.monotonic()
        with log.also_to_file(folder / LOG):
            logger.info("%s: %s%s", node.name, "resumes, " if resume else "", reason)
            try:
                made = CALLS[node.uses](Call(given.settings, place, resume))
                outputs = {
                    port: Output(where, content_of(where, node.kind.outputs[port].type))
                    for port, where in made.items()
                }
            except (KeyboardInterrupt, Interrupted):
                replace(state, state="stopped", seconds=time.monotonic() - began).write(folder)
                logger.info("%s: stopped; resume with: lookalike run %s", node.name, self._file)
                raise
            except (LookalikeError, OSError) as error:
                state = replace(state, seconds=time.monotonic() - began)
                return self._failed(node, state, _refusal(error))
            except BaseException as error:
                self._failed(node, state, f"{type(error).__name__}: a fault of lookalike")
                raise
            state = replace(state, state="done", seconds=time.monotonic() - began, outputs=outputs)
            state.write(folder)
            logger.info("%s: done in %s", node.name, log.duration(state.seconds))
        self._outputs[node.name] = outputs
        return _outcome(node, "done", reason, state)

    @contextlib.contextmanager
    def _logging(self, folder: Path) -> Iterator[None]:
        """Append to the log of a node, whose folder is made; not in a dry run."""
        if self._dry_run:
            yield
            return
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with log.also_to_file(folder / LOG):
            yield

    def _failed(self, node: Node, state: NodeState, why: str) -> NodeOutcome:
        state = replace(state, state="failed", error=why, outputs={})
        if not self._dry_run:
            state.write(self._folder / node.name)
            logger.error("%s: failed: %s", node.name, why)
        return _outcome(node, "failed", why, state)


def _outputs(node: Node, state: NodeState) -> dict[str, Output]:
    """Outputs of a node that is done; the address of a list as its settings have it, signed."""
    if node.uses != "read" or "list" not in state.outputs:
        return state.outputs
    place = CALLS["read"](Call(node.settings, Path(), resume=False))["list"]
    return {"list": replace(state.outputs["list"], place=place)}


def _refusal(error: LookalikeError | OSError) -> str:
    """The message of a user's mistake; any other error of the system is raised again."""
    if isinstance(error, OSError):
        found = LookalikeError.of_system(error)
        if found is None:
            raise error
        error = found
    return storage.without_secrets(str(error))


def _outcome(node: Node, did: Did, why: str, state: NodeState) -> NodeOutcome:
    places = {port: storage.public(one.place) for port, one in state.outputs.items()}
    return NodeOutcome(node.name, node.uses, did, why, state.seconds, places)
