"""Small pictures that can be learned, made anew for each session."""

import os
import signal
from collections.abc import Generator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from PIL import Image, ImageDraw

# The whole suite runs in two processes, which share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

# A job in the background, under nohup or of some CI runners starts with signals ignored, and so
# would the processes that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# No verdict of a test depends on how busy the machine is.
hypothesis.settings.register_profile(
    "suite", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("suite")


def draw(klass: int, view: int, size: int = 40) -> Image.Image:
    """A picture of class `klass`: its own shape and colours, moved and brightened by `view`."""
    rng = np.random.default_rng([klass, view])
    look = np.random.default_rng(klass)
    front, back = look.integers(0, 256, (2, 3))
    image = Image.new("RGB", (size, size), tuple(int(c) for c in back))
    x, y = rng.integers(0, size // 3, 2)
    box = [int(x), int(y), int(x) + size // 2, int(y) + size // 2]
    pen = ImageDraw.Draw(image)
    [pen.rectangle, pen.ellipse][klass % 2](box, fill=tuple(int(c) for c in front))
    noisy = np.asarray(image, np.int16) + rng.integers(-20, 20, (size, size, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def write_set(folder: Path, classes: range, views: int, name: str) -> Path:
    """Images of these classes and the list of them."""
    lines = []
    for klass in classes:
        for view in range(views):
            path = folder / f"images/{klass}-{view}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(klass, view).save(path, quality=90)
            lines.append(f"{path.relative_to(folder)} {klass}\n")
    (folder / name).write_text("".join(lines))
    return folder / name


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.txt (8 classes of 6 images) and val.txt (5 other classes of 4)."""
    folder = tmp_path_factory.mktemp("shapes")
    write_set(folder, range(8), 6, "train.txt")
    write_set(folder, range(100, 105), 4, "val.txt")
    return folder


@pytest.fixture(scope="session")
def many_shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of 40 classes of 3 images, none of them in `shapes`: enough to calibrate on."""
    return write_set(tmp_path_factory.mktemp("many"), range(200, 240), 3, "many.txt")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run the whole suite (pytest without a path) in two processes; a part of it in one."""
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    worker = hasattr(config, "workerinput")  # of pytest-xdist; it would start workers of its own
    if whole and not worker and getattr(config.option, "numprocesses", 0) is None:
        config.option.numprocesses, config.option.dist = 2, "loadfile"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Reports whose captured text pytest-xdist can send: it takes no surrogates."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report
