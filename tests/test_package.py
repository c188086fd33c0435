"""Promises of the package as a whole: its public names, its layers, its start."""

import ast
import graphlib
import importlib
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import grimp

import lookalike
from private_names import names_of_program, reached

ROOT = Path(__file__).parents[1]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_public_names_are_pinned_and_there():
    assert lookalike.__all__ == [
        "Calibration", "Comparison", "Config", "Embedder", "Index", "JobState", "JobStatus",
        "LookalikeError", "Run", "Scores", "backbones", "compare", "doctor", "embed", "evaluate",
        "export", "follow_job", "improve", "job_status", "list_jobs", "load", "plan", "push_to_hub",
        "quickstart", "report", "run_workflow", "search", "serve", "stop_job", "submit", "train",
        "training_component", "tune",
    ]  # fmt: skip
    for name in lookalike.__all__:
        assert callable(getattr(lookalike, name)), name


def test_commands_stay_functions_after_their_modules_are_imported():
    names = "train evaluate embed plan quickstart doctor export improve search report tune"
    for name in [*names.split(), "push_to_hub", "serve"]:
        importlib.import_module(f"lookalike.commands.{name}")
        assert callable(getattr(lookalike, name)), name


def test_help_and_mistakes_do_not_wait_for_torch():
    code = (
        "import sys\n"
        "from lookalike.cli import main\n"
        "sys.argv = ['lookalike', *{args}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    code = end.code\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "sys.exit(code)\n"
    )
    for args, expected in [(["--help"], 0), (["train", "--help"], 0), (["train", "optim.x=1"], 2)]:
        done = run(sys.executable, "-c", code.format(args=args))
        assert done.returncode == expected, done.stderr
        assert "Traceback" not in done.stderr


def test_importing_does_nothing():
    code = "import lookalike, sys; assert 'torch' not in sys.modules; print(len(dir(lookalike)))"
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr


def test_imports_only_point_down():
    done = run(str(Path(sys.executable).with_name("lint-imports")))
    assert done.returncode == 0, done.stdout


def test_imports_have_no_circle():
    graph = grimp.build_graph("lookalike", exclude_type_checking_imports=True, cache_dir=None)
    below = {
        # A component's function imports the module that it stands in: it runs elsewhere.
        module: graph.find_modules_directly_imported_by(module) - {module}
        for module in graph.modules
    }
    graphlib.TopologicalSorter(below).prepare()  # a CycleError has the modules of the circle


def test_functions_have_twelve_parameters_at_most():
    """But those of the command line, whose parameters are its flags, and kernels."""
    too_long = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            given = node.args
            named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
            count = len(named) + (given.vararg is not None) + (given.kwarg is not None)
            decorators = " ".join(map(ast.unparse, getattr(node, "decorator_list", ())))
            if count > 12 and path.parent.name != "cli" and "triton.jit" not in decorators:
                name = getattr(node, "name", "lambda")
                too_long.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name} has {count}")
    assert too_long == []


def test_the_package_is_typed():
    assert (Path(lookalike.__file__).parent / "py.typed").exists()


def test_names_of_files_and_classes_stand_once():
    files = [path for path in (ROOT / "src").rglob("*.py") if path.name != "__init__.py"]
    classes = [
        name for path in files for name in re.findall(r"^ *class (\w+)", path.read_text(), re.M)
    ]
    for names in ([path.name for path in files], classes):
        assert [name for name, count in Counter(names).items() if count > 1] == []


def test_tests_reach_no_private_names():
    names = names_of_program()
    assert len(names) > 500
    assert [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if path.name != "test_private_names.py"  # made of reaches
        for line, name in reached(path.read_text(), names)
    ] == []
