"""A workflow while it is edited: as its file has it, and with faults.

From text to draft and back nothing changes but spaces, the style of YAML, and comments: those at
the top of the file stay, all others go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import yaml

from lookalike.config.config import Config
from lookalike.config.yaml_lines import is_larger, read_mapping, write_yaml
from lookalike.errors import ConfigError
from lookalike.workflow.node_kinds import KINDS
from lookalike.workflow.workflow_graph import NO_NODES

_WIDTH = 96  # of a mapping on one line
_MOST_VALUES = 10_000  # of a node's settings
_PARTS = {"uses", "inputs", "with", "at"}


@dataclass
class DraftNode:
    """A node.

    Attributes:
        inputs: `NODE.OUTPUT` by port.
        settings: by their path in `with`: a name, or a section and a name.
        at: column and row on the canvas; None where nobody has moved it.
    """

    name: str
    uses: str
    inputs: dict[str, str] = field(default_factory=dict)
    settings: dict[tuple[str, ...], Any] = field(default_factory=dict)
    at: tuple[int, int] | None = None


@dataclass
class WorkflowDraft:
    """A workflow's content.

    Attributes:
        nodes: in the order of the file.
        head: the comments at the top of the file, with their line ends.
        lost_comments: comments elsewhere, which the text of this draft does not have.
    """

    nodes: list[DraftNode] = field(default_factory=list)
    head: str = ""
    lost_comments: int = 0

    @classmethod
    def read(cls, text: str, place: str) -> WorkflowDraft:
        """The draft of a file's text.

        Raises:
            ConfigError: it is no YAML, or has a node whose kind or parts are unknown: it is for an
                editor of text.
        """
        tree, lines = read_mapping(text, place, 1, otherwise=NO_NODES)
        text = text.replace("\r\n", "\n")
        head = "".join(takewhile(_is_comment, text.splitlines(keepends=True))).strip()
        draft = cls(head=f"{head}\n" if head else "")
        for name, body in tree.items():
            where = f"{place}:{lines.get(str(name), 1)}"
            if not _is_editable(name, body):
                raise ConfigError(
                    f"{where}: {str(name)[:80]!r} is no node that can be drawn; see lookalike run "
                    "--dry-run for what is wrong, and correct it with an editor"
                )
            draft.nodes.append(_node(name, body))
        draft.lost_comments = _comments(text) - _comments(draft.head)
        return draft

    def text(self) -> str:
        """The file.

        Raises:
            ConfigError: two nodes have one name, a setting is there twice, or one is too large.
        """
        names = [node.name for node in self.nodes]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"{name}: two nodes have this name; rename one")
        parts = [_text_of(node) for node in self.nodes]
        return "\n".join(([self.head] if self.head else []) + parts)


def _is_editable(name: Any, body: Any) -> bool:
    if not isinstance(name, str) or not isinstance(body, Mapping) or set(body) - _PARTS:
        return False
    uses, inputs, given, at = (body.get(part) for part in ("uses", "inputs", "with", "at"))
    return (
        isinstance(uses, str)
        and uses in KINDS
        and (inputs is None or _is_texts(inputs))
        and (given is None or (isinstance(given, Mapping) and _is_plain(given)))
        and (at is None or (isinstance(at, list) and list(map(type, at)) == [int, int]))
    )


def _is_texts(inputs: Any) -> bool:
    return isinstance(inputs, Mapping) and all(
        isinstance(port, str) and isinstance(source, str) for port, source in inputs.items()
    )


def _is_plain(value: Any) -> bool:
    """True for a value of the simple types, with texts as keys, of a size that can be shown."""
    return not is_larger(value, _MOST_VALUES) and _is_simple(value)


def _is_simple(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_simple(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(map(_is_simple, value))
    return value is None or isinstance(value, str | bool | int | float)


def _node(name: str, body: Mapping[str, Any]) -> DraftNode:
    settings: dict[tuple[str, ...], Any] = {}
    for key, value in (body.get("with") or {}).items():
        is_section = (
            KINDS[body["uses"]].settings is Config
            and key in Config.model_fields
            and isinstance(value, Mapping)
        )
        if is_section:
            settings |= {(key, inner): each for inner, each in value.items()}
        else:
            settings[(key,)] = value
    at = body.get("at")
    place = (at[0], at[1]) if at is not None else None
    return DraftNode(name, body["uses"], dict(body.get("inputs") or {}), settings, place)


def _text_of(node: DraftNode) -> str:
    if is_larger(list(node.settings.values()), _MOST_VALUES):
        raise ConfigError(f"{node.name}: its settings have more than {_MOST_VALUES:,} values")
    lines = [f"{write_yaml(node.name, flow=True)}:", f"  uses: {node.uses}"]
    if node.inputs:
        lines.append(_part("inputs", node.inputs, True))
    tree: dict[str, Any] = {}
    for path, value in node.settings.items():
        if len(path) == 1:
            if path[0] in tree:
                raise ConfigError(f"{node.name}: {path[0]} is there twice; remove one")
            tree[path[0]] = value
        else:
            section = tree.setdefault(path[0], {})
            if not isinstance(section, dict):
                raise ConfigError(f"{node.name}: {path[0]} is there twice; remove one")
            section[path[1]] = value
    if tree:
        lines.append(_part("with", tree, len(tree) <= 2))
    if node.at is not None:
        lines.append(f"  at: [{node.at[0]}, {node.at[1]}]")
    return "\n".join(lines) + "\n"


def _part(name: str, tree: Mapping[str, Any], is_short: bool) -> str:
    line = f"  {name}: {write_yaml(dict(tree), flow=True)}"
    if is_short and len(line) <= _WIDTH and "\n" not in line:
        return line
    found = [f"  {name}:"]
    for key, value in tree.items():
        one = f"    {write_yaml(key, flow=True)}: "
        if isinstance(value, Mapping) and value:
            inner = write_yaml(dict(value)).rstrip("\n").splitlines()
            found += [one.rstrip(), *(f"      {each}" for each in inner)]
        else:
            found.append(one + write_yaml(value, flow=True))
    return "\n".join(found)


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#") or not line.strip()


def _comments(text: str) -> int:
    """Comments of a text that is YAML."""
    spans = [
        (token.start_mark.index, token.end_mark.index)
        for token in yaml.scan(text, yaml.SafeLoader)
        if isinstance(token, yaml.ScalarToken)
    ]
    found = 0
    for line in re.finditer(r"[^\n]*", text):
        marks = re.finditer(r"(?<!\S)#", line[0])
        places = (line.start() + mark.start() for mark in marks)
        found += any(not any(a <= place < b for a, b in spans) for place in places)
    return found
