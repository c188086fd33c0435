"""The pages of the targets: their commands run with --dry-run, and their table is the code's."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lookalike.cli import app
from lookalike.jobs import dlc, slurm
from lookalike.jobs.engine import JobState

DOCS = Path(__file__).parents[2] / "docs"
CONFIG = """data: {train: oss://shop/train.txt, val: /data/val.txt}
run: {output: oss://shop/runs/shoes}
"""
WORKFLOW = "images: {uses: read, with: {list: lists/train.txt}}\n"


def block(page: Path, language: str) -> str:
    """The first fenced block of a language."""
    found = re.search(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return "" if found is None else found[1]


def commands() -> list:
    found = []
    for page in sorted(DOCS.glob("submit*.md")):
        blocks = re.findall(r"^```bash\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
        lines = [line for text in blocks for line in text.splitlines()]
        found += [
            pytest.param(page, shlex.split(line)[1:], id=line)
            for line in lines
            if line.startswith("lookalike submit ")
        ]
    return found


@pytest.mark.parametrize(("page", "words"), commands())
def test_command(page: Path, words: list[str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(CONFIG)
    Path("workflow.yaml").write_text(WORKFLOW)
    for name in ("dlc", "kubernetes", "slurm"):
        Path(f"{name}.yaml").write_text(block(DOCS / f"submit-{name}.md", "yaml"))
    done = CliRunner().invoke(app, [words[0], "--dry-run", *words[1:]])
    assert done.exception is None, done.exception
    assert "-m lookalike" in done.output


def table(title: str) -> list[list[str]]:
    """The rows of the table whose head begins with `title`."""
    text = (DOCS / "submit.md").read_text()
    [found] = re.findall(rf"^\| {title} \|.*\n\| ---.*\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in found.splitlines()]


def test_table_of_states() -> None:
    for state, of_dlc, _, of_slurm in table("state"):
        for words, known in ((of_dlc, dlc._STATES), (of_slurm, slurm._STATES)):
            for word in re.findall(r"[A-Z]\w+", words):
                assert known.get(word, JobState.RUNNING) == state, word
    assert {row[0] for row in table("state")} == set(JobState)
