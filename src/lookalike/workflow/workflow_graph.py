"""A workflow's file: nodes, their settings and connections, all checked before anything runs.

read_train: {uses: read, with: {list: data/train.txt}}
train:
  uses: train
  inputs: {train: read_train.list}
  with: {epochs: 4, optim.lr: 0.01}
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lookalike import storage
from lookalike.config.config import Config, key_of, keys
from lookalike.config.yaml_lines import read_mapping
from lookalike.errors import ConfigError
from lookalike.storage import Place
from lookalike.storage.local_files import read_text
from lookalike.storage.schema_faults import faults_of
from lookalike.workflow.node_kinds import KINDS, NodeKind

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
_PARTS = ("uses", "with", "inputs", "at")
_MOST_CELLS = 999
_DEPTH = 4  # node.with.section.key

NO_NODES = "holds no nodes; a workflow is a YAML file as `lookalike run --example DIR` writes one"
"""The fault of a file that is something else, as a list."""


@dataclass(frozen=True)
class Connection:
    """The output of a node."""

    node: str
    port: str

    def __str__(self) -> str:
        return f"{self.node}.{self.port}"


@dataclass(frozen=True)
class Node:
    """A node of a workflow.

    Attributes:
        uses: its kind, of `KINDS`.
        settings: those that were given, by dotted key or name.
        inputs: by input port.
    """

    name: str
    uses: str
    settings: dict[str, Any]
    inputs: dict[str, Connection]
    line: int

    @property
    def kind(self) -> NodeKind:
        """Its ports and settings."""
        return KINDS[self.uses]


@dataclass(frozen=True, order=True)
class Fault:
    """A fault of a workflow's file.

    Attributes:
        message: the whole line for people, with file and line number.
        node: its name; "" if the fault is of no node.
        key: setting or input of the node that is wrong; "" for neither.
        text: the message without its place.
    """

    line: int
    message: str
    node: str = ""
    key: str = ""
    text: str = ""


@dataclass(frozen=True)
class Workflow:
    """A checked workflow.

    Attributes:
        path: its file, absolute.
        nodes: by name, each after those that it depends on.
    """

    path: Path
    nodes: dict[str, Node]

    @classmethod
    def load(cls, file: Place) -> Workflow:
        """The workflow of a YAML file.

        Raises:
            ConfigError: a line for each fault, with file and line number.
        """
        if storage.is_remote(str(file)):
            raise ConfigError(
                f"{storage.public(str(file))}: a workflow is a file of this machine; fetch it first"
            )
        return cls.parse(read_text(file), storage.path_of(file).absolute(), str(file))

    @classmethod
    def parse(cls, text: str, path: Path, place: str | None = None) -> Workflow:
        """The workflow of a text; `place` names it in messages, `path` by default."""
        workflow, faults = cls.check(text, path, place)
        if faults:
            raise ConfigError("\n".join(fault.message for fault in faults))
        return workflow

    @classmethod
    def check(cls, text: str, path: Path, place: str | None = None) -> tuple[Workflow, list[Fault]]:
        """The nodes of a text that could be read, and its faults by line.

        Raises:
            ConfigError: it is no YAML, or no mapping.
        """
        tree, lines = read_mapping(text, place or str(path), _DEPTH, otherwise=NO_NODES)
        reader = _Reader(place or str(path), lines)
        nodes = reader.nodes(tree)
        return cls(path, nodes), sorted(reader.faults)


class _Reader:
    """Reads nodes and collects what is wrong with them."""

    def __init__(self, place: str, lines: Mapping[str, int]) -> None:
        self._place, self._lines = place, lines
        self.faults: list[Fault] = []

    def _where(self, key: str) -> str:
        return f"{self._place}:{self._line(key)}"

    def _line(self, key: str) -> int:
        while key not in self._lines and "." in key:
            key = key.rpartition(".")[0]
        return self._lines.get(key, 1)

    def _fault(self, key: str, text: str) -> None:
        node, _, below = key.partition(".")
        name = below.partition(".")[2] if below.startswith(("with.", "inputs.")) else ""
        message = f"{self._where(key)}: {text}"
        self.faults.append(Fault(self._line(key), message, node, name, text))

    def nodes(self, tree: Mapping[Any, Any]) -> dict[str, Node]:
        if not tree:
            self._fault("", "holds no nodes; see lookalike run --example DIR")
        found = {}
        for name, body in tree.items():
            node = self._node(name, body)
            if node is not None:
                found[node.name] = node
        known = {str(name) for name in tree}
        for node in found.values():
            self._check_inputs(node, found, known)
        return self._ordered(found)

    def _node(self, name: Any, body: Any) -> Node | None:
        key = str(name)
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            self._fault(key, f"{name!r} is no name of a node: use letters, digits, _ and -")
            return None
        if not isinstance(body, Mapping):
            self._fault(key, f"{name} is a node: write e.g. {name}: {{uses: read}}")
            return None
        for part in body:
            if part not in _PARTS:
                hint = _hint(str(part), _PARTS) or f"; a node has {', '.join(_PARTS)}"
                self._fault(f"{key}.{part}", f"{name}: {part} is no part of a node{hint}")
        self._check_cell(key, body.get("at"))
        uses = body.get("uses")
        if not isinstance(uses, str) or uses not in KINDS:
            what = f"uses={uses!r} is not one of" if "uses" in body else "uses is missing; it is"
            self._fault(f"{key}.uses", f"{name}: {what} {', '.join(KINDS)}")
            return None
        given = self._part(key, body, "with")
        inputs = self._inputs(key, self._part(key, body, "inputs"), KINDS[uses])
        settings = self._settings(key, given, KINDS[uses])
        return Node(name, uses, settings, inputs, self._line(key))

    def _check_cell(self, key: str, at: Any) -> None:
        is_cell = isinstance(at, list) and len(at) == 2 and all(
            isinstance(part, int) and not isinstance(part, bool) and 0 <= part <= _MOST_CELLS
            for part in at
        )  # fmt: skip
        if at is not None and not is_cell:
            self._fault(
                f"{key}.at", f"{key}: at={at!r} is no place on the canvas; write [column, row]"
            )

    def _part(self, key: str, body: Mapping[Any, Any], part: str) -> Mapping[Any, Any]:
        value = body.get(part)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self._fault(f"{key}.{part}", f"{key}: {part} holds names and values, as {{a: b}}")
            return {}
        return value

    def _inputs(self, key: str, given: Mapping[Any, Any], kind: NodeKind) -> dict[str, Connection]:
        found = {}
        for port, source in given.items():
            place = f"{key}.inputs.{port}"
            if port not in kind.inputs:
                hint = _choices(str(port), kind.inputs, "inputs")
                self._fault(place, f"{key}: there is no input {port}{hint}")
                continue
            node, dot, output = source.partition(".") if isinstance(source, str) else ("", "", "")
            if not (node and dot and output):
                self._fault(
                    place, f"{key}: {port}={source!r} is no output; write NODE.OUTPUT, as read.list"
                )
                continue
            found[port] = Connection(node, output)
        return found

    def _settings(self, key: str, given: Mapping[Any, Any], kind: NodeKind) -> dict[str, Any]:
        if kind.settings is Config:
            return self._config_settings(key, given)
        for name in given:
            if name not in kind.settings.model_fields:
                hint = _choices(str(name), kind.settings.model_fields, "settings")
                self._fault(f"{key}.with.{name}", f"{key}: there is no setting {name}{hint}")
        known = {name: v for name, v in given.items() if name in kind.settings.model_fields}
        try:
            checked = kind.settings.model_validate(known)
        except ValidationError as error:
            for name, what in faults_of(error):
                self._fault(f"{key}.with.{name.partition('.')[0]}", f"{key}: {what}")
            return known  # so that an input that one of them gives is not missing as well
        return checked.model_dump(exclude_unset=True)

    def _config_settings(self, key: str, given: Mapping[Any, Any]) -> dict[str, Any]:
        """Settings of training, by section, dotted key, or a name of a keyword (`epochs`, `lr`)."""
        tree: dict[str, dict[str, Any]] = {}
        places: dict[str, str] = {}
        for name, value in given.items():
            above = f"{key}.with.{name}"
            if name in Config.model_fields and isinstance(value, Mapping):
                parts = {f"{name}.{inner}": (f"{above}.{inner}", v) for inner, v in value.items()}
            elif str(name) in keys():
                parts = {str(name): (above, value)}
            else:
                try:
                    parts = {key_of(str(name)): (above, value)}
                except ConfigError as error:
                    self._fault(above, f"{key}: {error}")
                    continue
            for dotted, (where, inner) in parts.items():
                if dotted in places:
                    self._fault(where, f"{key}: {dotted} is there twice; remove one")
                section, _, last = dotted.partition(".")
                tree.setdefault(section, {})[last] = inner
                places[dotted] = self._where(where)
        try:
            config = Config.build(tree, self._where(f"{key}.with"), places)
        except ConfigError as error:
            for message in str(error).splitlines():
                text = re.sub(rf"^{re.escape(self._place)}:\d+: ", "", message)
                name = re.match(r"\w+\.\w+", text)
                self.faults.append(
                    Fault(self._line(f"{key}.with"), message, key, name[0] if name else "", text)
                )
            return {
                f"{part}.{name}": v for part, values in tree.items() for name, v in values.items()
            }
        return {dotted: config.get(dotted) for dotted in sorted(config.asked())}

    def _check_inputs(self, node: Node, nodes: Mapping[str, Node], known: set[str]) -> None:
        for port, source in node.inputs.items():
            place = f"{node.name}.inputs.{port}"
            if source.node not in nodes:
                if source.node not in known:  # a node with faults has its own lines
                    hint = _choices(source.node, nodes, "nodes")
                    self._fault(place, f"{node.name}: there is no node {source.node}{hint}")
                continue
            giver = nodes[source.node]
            outputs = giver.kind.outputs
            if source.port not in outputs:
                hint = _choices(source.port, outputs, "outputs") if outputs else "; it has none"
                self._fault(place, f"{node.name}: {giver.name} has no output {source.port}{hint}")
                continue
            output = outputs[source.port]
            types = node.kind.inputs[port].types
            if output.type not in types:
                self._fault(
                    place,
                    f"{node.name}: {port} takes {' or '.join(types)}, and {source} is "
                    f"of type {output.type}",
                )
            elif output.needs is not None and giver.settings.get(output.needs) is None:
                self._fault(
                    place, f"{node.name}: {giver.name} gives {source} only with {output.needs}"
                )
        for port, needed in node.kind.inputs.items():
            given = node.settings.get(needed.key) is not None
            if needed.required and port not in node.inputs and not given:
                self._fault(
                    node.name,
                    f"{node.name}: the input {port} is missing; connect inputs: {{{port}: "
                    f"NODE.OUTPUT}} of type {' or '.join(needed.types)}, or give with: "
                    f"{{{needed.key}: ...}}",
                )
        if node.uses == "read" and node.settings.get("list") is None:
            self._fault(node.name, f"{node.name}: list is missing; write with: {{list: train.txt}}")

    def _ordered(self, nodes: Mapping[str, Node]) -> dict[str, Node]:
        """The nodes, each after those that it depends on, and otherwise as in the file."""
        done: dict[str, Node] = {}
        left = dict(nodes)
        while left:
            ready = next(
                (n for n in left.values() if not any(s.node in left for s in n.inputs.values())),
                None,
            )
            if ready is None:
                circle = _circle(left)
                self._fault(
                    circle[0],
                    f"{circle[0]}: depends on itself: {' <- '.join([*circle, circle[0]])}",
                )
                return dict(nodes)
            done[ready.name] = left.pop(ready.name)
        return done


def _circle(nodes: Mapping[str, Node]) -> list[str]:
    """Names of a circle among nodes, each of which depends on another of them."""
    path = [next(iter(nodes))]
    while True:
        following = next(s.node for s in nodes[path[-1]].inputs.values() if s.node in nodes)
        if following in path:
            return path[path.index(following) :]
        path.append(following)


def _hint(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1, 0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _choices(name: str, known: Iterable[str], what: str) -> str:
    names = list(known)
    return _hint(name, names) or (f"; {what}: {', '.join(names)}" if names else "")
