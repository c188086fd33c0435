"""Packages that a benchmark needs beside lookalike: named in one line where they are missing."""

from __future__ import annotations

import importlib.util
import sys

# Modules whose package is called otherwise.
PACKAGES = {
    "skimage": "scikit-image",
    "cv2": "opencv-python-headless",
    "oml": "open-metric-learning",
    "faiss": "faiss-cpu",
    "pytorch_metric_learning": "pytorch-metric-learning",
    "spdl": "spdl",
    "resvg_py": "resvg-py",
    "fontTools": "fonttools",
    "nvidia.dali": "nvidia-dali-cuda130",
}
INSTALL = "pip install -e '.[bench]'"
# Their pins do not resolve together with the extra; installed after it they replace some packages.
INSTALL_APART = {"s3fs": "pip install s3fs"}


def is_installed(module: str) -> bool:
    """True if a module, as `nvidia.dali`, can be found."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def missing(*modules: str) -> str:
    """Message about those of the modules that cannot be found; "" where all can."""
    lacking = [module for module in modules if not is_installed(module)]
    names = ", ".join(PACKAGES.get(module, module) for module in lacking)
    verb = "is" if len(lacking) == 1 else "are"
    commands = dict.fromkeys(INSTALL_APART.get(module, INSTALL) for module in lacking)
    return f"{names} {verb} not installed: {' && '.join(commands)}" if lacking else ""


def require(*modules: str) -> None:
    """End the program with one line and exit code 2 where a module is missing."""
    line = missing(*modules)
    if line:
        print(f"error: {line}", file=sys.stderr)
        raise SystemExit(2)
