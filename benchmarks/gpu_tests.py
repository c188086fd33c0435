"""The suite's tests for a CUDA device, each result noted as it comes."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from pathlib import Path
from typing import Any

from gpu_measure import Place
from gpu_record import NotRunError, Record

ROOT = Path(__file__).resolve().parents[1]
# The suite's own settings turn warnings into errors and name plugins that may be missing here.
SETTINGS = """\
[pytest]
pythonpath = {paths}
markers = cuda: needs a CUDA device
          timeout: of pytest-timeout
"""


class _Noting:
    """A plugin of pytest that writes down each test's outcome."""

    def __init__(self, record: Record) -> None:
        self.record, self.counts = record, {"passed": 0, "failed": 0, "skipped": 0}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.counts["failed"] += 1
            self.record.failed(report.nodeid, report.longreprtext)
        elif report.skipped:
            self.counts["skipped"] += 1
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else "?"
            self.record.not_run(report.nodeid, reason)
        elif report.when == "call":
            self.counts["passed"] += 1

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.record.failed(report.nodeid, report.longreprtext)


def run_tests(place: Place, record: Record) -> None:
    try:
        import pytest
    except ImportError:
        raise NotRunError("pytest is not installed: bring it as a wheel") from None
    folders = ["cuda", "training", "losses"]
    scratch = Path(tempfile.mkdtemp(dir=Path.cwd()))  # which `gpu.py` removes
    settings = scratch / "pytest.ini"
    paths = " ".join(str(ROOT / "tests" / folder) for folder in folders)
    settings.write_text(SETTINGS.format(paths=paths))
    if place.dry:
        os.environ["LOOKALIKE_CUDA_TESTS"] = "pretend"
    tests = [str(ROOT / "tests/cuda")]
    if place.dry:  # half of the time of all
        tests.append(f"--ignore={ROOT / 'tests/cuda/test_cuda_commands.py'}")
    else:
        tests.append(str(ROOT / "tests/losses/test_triton_kernels.py"))
    if importlib.util.find_spec("pytest_timeout") is not None:
        tests.append("--timeout=100")
    noting = _Noting(record)
    code = pytest.main(
        ["-c", str(settings), "--rootdir", str(ROOT), "-q", "-m", "cuda", "-W", "default",
         "--continue-on-collection-errors", "-p", "no:cacheprovider",
         "--basetemp", str(scratch / "pytest"), *tests],
        plugins=[noting],
    )  # fmt: skip
    for outcome, count in noting.counts.items():
        record.figure(f"tests {outcome}", count, "", "pytest -m cuda")
    if code not in (0, 1) or not noting.counts["passed"]:
        raise RuntimeError(f"pytest ended with {code!r}, {noting.counts}")
