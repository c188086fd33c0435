"""Tests reach no private names of the program: they test what a caller can see.

A private name begins with one underscore. Reached is one by an attribute, an import, a keyword, a
string (of `setattr`, or of a program that a test starts), or by a subclass that overrides it. Only
names that the program defines count: those of other libraries, and of the tests' own classes, are
no concern of this test.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAM = ("src", "benchmarks", "docs", "tools")
"""Folders whose private names are not for tests."""

OF_OTHERS = {"_version"}
"""Names of the program that other libraries have too: `_version` counts the changes of a tensor."""

PRIVATE = r"_(?!_)\w+"


def is_private(name: str) -> bool:
    return re.fullmatch(PRIVATE, name) is not None


def defined_names(tree: ast.AST) -> Iterator[str]:
    """The names that functions, classes and assignments define, attributes among them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def names_of_program() -> set[str]:
    """The private names that the program defines, with those of its files."""
    found: set[str] = set()
    for folder in PROGRAM:
        for path in (ROOT / folder).rglob("*.py"):
            found.add(path.stem)
            found.update(defined_names(ast.parse(path.read_text())))
    return {name for name in found if is_private(name)} - OF_OTHERS


def is_of_program(module: str) -> bool:
    top = module.partition(".")[0]
    return top == "lookalike" or any((ROOT / folder / f"{top}.py").exists() for folder in PROGRAM)


class Reaches(ast.NodeVisitor):
    """The private names of the program that a file of tests reaches, as (line, name)."""

    def __init__(self, names: set[str]) -> None:
        self.names, self.found = names, set[tuple[int, str]]()
        self.imported: dict[str, bool] = {}  # name in the file -> whether the program has it
        self.own_class = False  # in a class that extends none of the program

    def add(self, node: ast.AST, name: str) -> None:
        if name in self.names:
            self.found.add((node.lineno, name))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            for part in alias.name.split("."):
                self.add(node, part)
            name = alias.asname or alias.name.partition(".")[0]
            self.imported[name] = is_of_program(alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        for part in module.split("."):
            self.add(node, part)
        for alias in node.names:
            self.add(node, alias.name)
            self.imported[alias.asname or alias.name] = is_of_program(module)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        of_program = any(self.imported.get(root_of(base)) for base in node.bases)
        if of_program:
            for statement in node.body:
                for name in defined_names(ast.Module([statement], [])):
                    self.add(statement, name)
        outer, self.own_class = self.own_class, not of_program
        self.generic_visit(node)
        self.own_class = outer

    def visit_Attribute(self, node: ast.Attribute) -> None:
        root = root_of(node)
        of_itself = root in ("self", "cls") and isinstance(node.value, ast.Name)
        of_library = self.imported.get(root) is False
        if not of_library and not (of_itself and self.own_class):
            self.add(node, node.attr)
        self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        self.add(node, node.arg or "")
        self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        parts = [part.value if isinstance(part, ast.Constant) else "x" for part in node.values]
        self.add_of_text(node, "".join(parts))
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                self.visit(part.value)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.add_of_text(node, node.value)

    def add_of_text(self, node: ast.AST, text: str) -> None:
        if is_private(text):
            self.add(node, text)
        for name in re.findall(rf"(?:\.|\bimport )({PRIVATE})", text):
            self.add(node, name)


def root_of(node: ast.AST) -> str:
    """The name that an expression such as `a.b(c)[d].e` begins with; "" for none."""
    while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def reached(text: str, names: set[str]) -> list[tuple[int, str]]:
    reaches = Reaches(names)
    reaches.visit(ast.parse(text))
    return sorted(reaches.found)


def test_tests_reach_no_private_names():
    names = names_of_program()
    assert len(names) > 500
    assert [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if path != Path(__file__)
        for line, name in reached(path.read_text(), names)
    ] == []


@pytest.mark.parametrize(
    "text",
    [
        "def test(head):\n    head._sample()",
        "import lookalike\nlookalike.load('m')._sample",
        "from lookalike.losses import head\nhead.a.b[0]._sample = 1",
        "from lookalike.losses.head import _sample",
        "import lookalike._sample.part",
        "monkeypatch.setattr(head, '_sample', None)",
        "for name in ('rows', '_sample'):\n    setattr(head, name, 1)",
        "patch('lookalike.losses.head._sample', None)",
        "run(f'import sys; {first}; from lookalike.losses.head import _sample')",
        "run(f'head = {head}; head._sample()')",
        "f'{head._sample()}'",
        "Head(_sample=None)",
        "from lookalike.losses import head\nclass Double(head.Head):\n    def _sample(self): pass",
        "from lookalike import Head\nclass Double(Head):\n    def go(self): self._sample()",
        "def counted(self):\n    return self._sample()",
        "class Own:\n    def go(self, head): head._sample()",
        "class Own:\n    def go(self): self.head._sample()",
    ],
)
def test_a_reach_is_found(text):
    assert [name for _, name in reached(text, {"_sample"})] == ["_sample"]


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ntorch.ops._sample(torch._sample)",
        "from torch.utils import data\ndata.part(1)._sample",
        "class Own:\n    def _sample(self): return self._sample",
        "from torch import nn\nclass Own(nn.Module):\n    def go(self): return self._sample",
        "def _sample(): pass\n_sample()",
        "head.__sample__, head.sample, head._other",
        "f'{name}_sample'",
        "'the_sample and _sample in a sentence'",
    ],
)
def test_what_is_not_of_the_program_is_no_reach(text):
    assert reached(text, {"_sample"}) == []
