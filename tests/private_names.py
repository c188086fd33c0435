"""Private names of the program that tests reach: there are to be none.

A private name begins with one underscore. A test reaches it by an attribute, an import, a keyword,
a string (of `setattr`, or of a program that the test starts), or by a subclass that overrides it.
Only names that the program defines count, not those of other libraries or of the tests' own
classes.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

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
