"""YAML of a request, read with line numbers and written.

Numbers are read as people mean them: `1e-4` is one, while `1:30` (YAML 1.1's sexagesimal 90),
`010` (its octal 8) and dates are text. A key that is there twice is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from lookalike.errors import ConfigError

_REPLACED = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {  # noqa: RUF012  # as the base has it
        first: [(tag, pattern) for tag, pattern in found if tag not in _REPLACED]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        there: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                continue
            if key.value in there:
                raise yaml.constructor.ConstructorError(
                    None, None,
                    f"the key {key.value!r} is there twice, first on line {there[key.value]}; "
                    "remove one",
                    key.start_mark,
                )  # fmt: skip
            there[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    _REPLACED[0],
    re.compile(r"^[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0o[0-7]+)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    _REPLACED[1],
    re.compile(
        r"^([-+]?((0|[1-9][0-9_]*)\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?"
        r"|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


class _Dumper(yaml.SafeDumper):
    """Quotes each text that YAML or `_Loader` would read as something else."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # as the base has it
        first: [
            *_Loader.yaml_implicit_resolvers.get(first, []),
            *yaml.SafeDumper.yaml_implicit_resolvers.get(first, []),
        ]
        for first in _Loader.yaml_implicit_resolvers | yaml.SafeDumper.yaml_implicit_resolvers
    }

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # The other styles need lines of their own, and fold these three into blanks.
        style = '"' if any(sign in data for sign in "\n\x85\u2028\u2029") else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


_OF_TAGS = (KeyError, IndexError, AttributeError, TypeError)
"""Raised by PyYAML for a value that its tag, as `!!bool maybe`, does not fit."""


def write_yaml(value: Any, *, flow: bool = False) -> str:
    """YAML that `read_mapping` and `read_value` read as the same value; `flow` puts it on a line.

    Raises:
        ValueError: it has values that YAML's simple types do not have.
    """
    try:
        text = yaml.dump(
            value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**20,
            default_flow_style=flow,
        )  # fmt: skip
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from None
    return text.removesuffix("...\n").removesuffix("\n") if flow else text


def read_value(text: str) -> Any:
    """The value of `key=VALUE`.

    Signs alone on a line, as `|`, are text: in YAML many would be the beginning of something else.

    Raises:
        ValueError: it is no YAML.
    """
    if text and not any(sign.isalnum() or sign in "~[]{}'\" \n" for sign in text):
        return text
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, *_OF_TAGS, RecursionError) as error:
        raise ValueError(_reason(error)) from None


OF_A_REQUEST = (
    "holds no sections; write e.g. 'optim:' and below it '  lr: 0.1'; a list of images is given as "
    "--train LIST"
)
"""Fault of a file that is no request, and the fix."""


def read_mapping(
    text: str, place: str, depth: int = 2, *, otherwise: str = OF_A_REQUEST
) -> tuple[dict[Any, Any], dict[str, int]]:
    """The content of a file, and the line of each section and dotted key of at most `depth` parts.

    `otherwise` ends the message about a file that holds no mapping.

    Raises:
        ConfigError: it is no YAML, or no mapping.
    """
    loader = _open(text, place)
    try:
        node = loader.get_single_node()
        if node is None:
            return {}, {}
        tree = loader.construct_object(node, deep=True)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{place}{line}: not YAML: {_explained(error)}") from None
    except (yaml.YAMLError, ValueError, *_OF_TAGS, RecursionError) as error:
        what = _reason(error).splitlines()[0][:200]
        raise ConfigError(f"{place}: not YAML: {what}") from None
    finally:
        loader.dispose()
    if not isinstance(tree, dict):
        raise ConfigError(f"{place}:{node.start_mark.line + 1}: {otherwise}")
    return tree, dict(_lines(node, depth))


def is_larger(value: Any, most: int) -> bool:
    """True if nested mappings and lists have more values; those of aliases count each time."""
    left, found = [value], 0
    while left and found <= most:
        one = left.pop()
        found += 1
        if isinstance(one, dict):
            left += one.values()
        elif isinstance(one, list | tuple):
            left += one
    return found > most


def _open(text: str, place: str) -> _Loader:
    try:
        return _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"{place}:{line}: not YAML: it holds the character U+{ord(text[error.position]):04X}; "
            "remove it"
        ) from None


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, _OF_TAGS):
        return "a value does not fit its tag (!!...); leave the tag out"
    return str(error)


def _explained(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "unexpected content"
    if "recursive" in problem:
        return "an alias stands inside of its own anchor"
    if "'\\t'" in problem:
        return f"{problem}; indent with spaces, not with a tab"
    return problem


def _lines(node: yaml.Node, depth: int, above: str = "") -> Iterator[tuple[str, int]]:
    """Dotted keys and their lines; keys of an anchor have the anchor's lines."""
    for key, value in node.value:
        name = f"{above}{key.value}"
        yield name, key.start_mark.line + 1
        if isinstance(value, yaml.MappingNode) and depth > 1:
            yield from _lines(value, depth - 1, f"{name}.")
