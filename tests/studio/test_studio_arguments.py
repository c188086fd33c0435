"""Arguments of `lookalike studio`, which are checked before its packages."""

import subprocess
import sys

import pytest

from program import run

LONG = "0123456789abcdef-long"


@pytest.fixture
def without_packages(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--token-file", "none"], "none: no such file"),
        (["--token-file", "empty"], "empty: a token is one word"),
        (["--token-file", "short"], "the token has 3 characters; it needs at least 16"),
        (["--host", "0.0.0.0"], "--host 0.0.0.0: other machines can reach it"),
        (["--host", "no/host", "--token-file", "long"], "--host no/host: no address of this"),
        (["--port", "70000"], "port=70000 (--port) must be from 0 to 65535"),
        (["--root", "none"], "--root none is not a folder"),
        (["--index", "shop.index"], "--index shop.index: give qdrant://"),
        (["--index", "qdrant://host:6333/x"], "6333 is Qdrant's port for HTTP"),
        (["--port", "0"], "fastapi is not installed; it comes with: pip install 'lookalike[studio"),
    ],
)
def test_a_mistake_in_the_arguments_is_named_before_missing_packages(
    monkeypatch, tmp_path, capsys, without_packages, words, said
):
    monkeypatch.chdir(tmp_path)
    for name, token in (("empty", ""), ("short", "abc"), ("long", LONG)):
        (tmp_path / name).write_text(token)
    assert run(monkeypatch, "studio", *words) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", [["studio"], ["serve", "none"]])
def test_the_arguments_are_checked_where_the_packages_are_not_installed(tmp_path, command):
    """In a process of its own, in which nothing can have imported them before."""
    block = "import sys; sys.modules |= dict.fromkeys(['fastapi', 'starlette', 'uvicorn'])"
    program = f"{block}; from lookalike.cli import main; main()"
    words = [sys.executable, "-c", program, *command, "--token-file", str(tmp_path / "none")]
    ended = subprocess.run(words, capture_output=True, text=True)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.strip().endswith("none: no such file or directory")
