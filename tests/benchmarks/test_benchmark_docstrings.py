"""Docstrings of benchmarks, which their --help shows."""

import ast
import re
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_docstrings_name_the_thing():
    """No question word at the start: a noun phrase, or a verb."""
    found = []
    for file in sorted(BENCHMARKS.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                text = ast.get_docstring(node) or ""
                if re.match(r"(What|Whether|How|Where|Who|Which|Why|When)\b", text):
                    found.append(f"{file.name}: {text.splitlines()[0]}")
    assert not found
