"""Docstrings, which --help, forms and the API reference show."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
QUESTION = re.compile(r'^\s*r?"""(What|Whether|How|Where|Who|Which|Why|When)\b.*', re.MULTILINE)


def test_docstrings_name_the_thing():
    """No question word at the start: a noun phrase, or a verb."""
    found = []
    for file in [*(ROOT / "src").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        for match in QUESTION.finditer(file.read_text("utf-8")):
            found.append(f"{file.relative_to(ROOT)}: {match[0].strip()}")
    assert not found
