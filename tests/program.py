"""The program, called in the process of a test."""

import pytest

from lookalike import cli


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """The exit code of `lookalike WORDS`."""
    monkeypatch.setattr("sys.argv", ["lookalike", *map(str, words)])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0
