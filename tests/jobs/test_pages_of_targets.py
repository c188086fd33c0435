"""The pages of the targets: their commands run with --dry-run, and their table is the code's."""

import re
import shlex
from pathlib import Path

import pytest
from job_service import serving
from typer.testing import CliRunner

from lookalike.cli import app
from lookalike.jobs.dlc import connect
from lookalike.jobs.engine import JobState
from lookalike.jobs.resources import Resources
from lookalike.jobs.slurm import Slurm

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


def words_of_states(column: int) -> dict[str, str]:
    """The state of each word in a column of the table of states."""
    return {word: row[0] for row in table("state") for word in re.findall(r"[A-Z]\w+", row[column])}


def test_table_of_states() -> None:
    assert {row[0] for row in table("state")} == set(JobState)


def test_states_of_dlc_are_those_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("alibabacloud_pai_dlc20201203")
    words = words_of_states(1)
    tags = {"Tags": {"lookalike": "train"}}
    listed = [{"JobId": word, "Status": word, "Settings": tags} for word in words]
    with serving({"GET /api/v1/jobs": [(200, {"Jobs": listed})]}) as service:
        monkeypatch.setenv("PAI_DLC_ENDPOINT", service.address)
        monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "secret")
        assert {job.id: job.state for job in connect(Resources()).jobs()} == words


def test_states_of_slurm_are_those_of_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = words_of_states(3)
    lines = "\n".join(f"{word}|{word}|T|None|lookalike|shoes" for word in words)
    program = tmp_path / "squeue"
    program.write_text(f"#!/bin/sh\ncat <<'E'\n{lines}\nE\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert {job.id: job.state for job in Slurm().jobs()} == words
