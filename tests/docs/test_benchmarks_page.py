"""Every figure of the docs has its command, and a benchmark says in one line what it lacks."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/benchmarks.md").read_text()
SCRIPT = re.compile(r"benchmarks/(\w+)\.py")


@pytest.fixture
def requirements(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delitem(sys.modules, "requirements", raising=False)
    return importlib.import_module("requirements")


def test_each_benchmark_that_a_page_names_has_its_command():
    named = {
        name
        for page in [*ROOT.glob("docs/*.md"), ROOT / "README.md"]
        for name in SCRIPT.findall(page.read_text())
    }
    rows = set(SCRIPT.findall("\n".join(re.findall(r"^\|.*\|$", PAGE, re.M))))
    assert named == rows
    for name in rows:
        assert (ROOT / f"benchmarks/{name}.py").exists()


def test_each_script_with_a_command_line_is_on_the_page():
    commands = {
        path.stem
        for path in ROOT.glob("benchmarks/*.py")
        if 'if __name__ == "__main__"' in path.read_text()
    }
    # Run by others.
    inner = {
        "evaluate_contender",
        "storage_server",
        "head_memory",
        "quality_trial",
        "quality_oml",
        "serve_litserve",
    }
    assert commands - inner <= set(SCRIPT.findall(PAGE))


def test_what_is_missing_is_said_in_one_line(requirements, monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name in ("skimage", "faiss") else found(name),
    )
    assert requirements.missing("json") == ""
    requirements.require("json", "numpy")
    with pytest.raises(SystemExit) as end:
        requirements.require("numpy", "skimage", "faiss")
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "error: scikit-image, faiss-cpu are not installed: pip install -e '.[bench]'\n"
    )
    assert not requirements.is_installed("no_such_package.inner")


def test_the_extra_brings_what_the_benchmarks_look_for(requirements):
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    names = [re.split(r"[><=\[]", line)[0] for line in extras["bench"]]
    wanted = set(requirements.PACKAGES.values()) - {"open-metric-learning"}  # NumPy below 2
    assert wanted <= set(names)
