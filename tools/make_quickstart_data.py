"""Make the bundle of real images that `lookalike quickstart` trains on and measures with.

The source is the unpacked emoji data set: `img/CLASS_CODEPOINT/VENDOR.jpg` and two lists,
`train.txt` and `test.txt`, with one `path class-number` a line. Their classes are disjoint: what
the quickstart measures, it has never seen.

Of each list, the names of its classes sorted, every k-th class is taken whole, with the original
JPEG bytes. So the choice knows nothing of how easy a class is, and the gallery stays large.
Labels become text, the emoji's name without its code point. The same source always gives the same
bytes: sorted names, no times, no owners.

    python tools/make_quickstart_data.py /tmp/emoji/emoji \
        src/lookalike/quickstart_data/emoji.tar
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
import tarfile
from pathlib import Path, PurePosixPath

MAX_BYTES = 6_000_000
"""The most that the package may carry."""

NOTE = """
This bundle is a selection of those drawings for `lookalike quickstart`: every {train}th class of
the training list and every {test}th of the test list, the JPEG files unchanged. A file's name
says whose drawing it is.

Apache-2.0: https://www.apache.org/licenses/LICENSE-2.0
CC-BY-4.0: https://creativecommons.org/licenses/by/4.0/
CC-BY-SA-4.0: https://creativecommons.org/licenses/by-sa/4.0/
MIT: https://opensource.org/license/mit
"""


def read_classes(source: Path, name: str) -> dict[str, list[str]]:
    """The images of each class of a list, by the class's folder.

    Args:
        source: the unpacked data set.
        name: `train` or `test`.

    Raises:
        ValueError: a line is not `img/CLASS_CODEPOINT/VENDOR.jpg number`.
    """
    classes: dict[str, list[str]] = {}
    text = (source / f"{name}.txt").read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(), 1):
        path, _, label = line.rpartition(" ")
        parts = PurePosixPath(path).parts
        if len(parts) != 3 or parts[0] != "img" or "_" not in parts[1] or not label.isdigit():
            raise ValueError(f"{name}.txt:{number}: expected `img/CLASS_CODE/VENDOR.jpg number`")
        classes.setdefault(parts[1], []).append(path)
    return classes


def select(classes: dict[str, list[str]], step: int) -> list[str]:
    """All images of every `step`-th class from the middle of the first step; sorted by name."""
    chosen = sorted(classes)[step // 2 :: step]
    return [path for folder in chosen for path in sorted(classes[folder])]


def label_of(path: str) -> str:
    """`img/red-apple_1f34e/noto.jpg` -> `red-apple`."""
    return PurePosixPath(path).parts[1].rpartition("_")[0]


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """A plain file, with nothing in its header that differs from machine to machine."""
    entry = tarfile.TarInfo(name)  # time, owner and group are 0
    entry.size = len(content)
    entry.mode = 0o644
    archive.addfile(entry, io.BytesIO(content))


def make(source: Path, *, train_step: int, test_step: int) -> tuple[bytes, str]:
    """The archive, and a sentence about it.

    Raises:
        ValueError: a list is malformed, a class is on both lists, one label names two classes,
            an image is not a JPEG, or the archive is larger than `MAX_BYTES`.
    """
    lists = {
        "train": select(read_classes(source, "train"), train_step),
        "test": select(read_classes(source, "test"), test_step),
    }
    folders = {name: {path.split("/")[1] for path in paths} for name, paths in lists.items()}
    if both := folders["train"] & folders["test"]:
        raise ValueError(f"both lists have the classes {', '.join(sorted(both))}")
    labels = {label_of(path) for paths in lists.values() for path in paths}
    if len(labels) != len(folders["train"]) + len(folders["test"]):
        raise ValueError("two classes have the same name; keep their code points in the labels")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        licences = (source / "LICENSES.md").read_text(encoding="utf-8").rstrip() + "\n"
        licences += NOTE.format(train=train_step, test=test_step)
        add(archive, "LICENSES.md", licences.encode())
        for name, paths in lists.items():
            lines = "".join(f"{path} {label_of(path)}\n" for path in paths)
            add(archive, f"{name}.txt", lines.encode())
        for path in sorted(lists["train"] + lists["test"]):
            content = (source / path).read_bytes()
            if not content.startswith(b"\xff\xd8"):
                raise ValueError(f"{path} is not a JPEG")
            add(archive, path, content)
    content = buffer.getvalue()
    if len(content) > MAX_BYTES:
        raise ValueError(f"{len(content):,} bytes are more than {MAX_BYTES:,}; raise a step")
    counts = ", ".join(
        f"{name}: {len(lists[name])} images of {len(folders[name])} classes" for name in lists
    )
    return content, f"{counts}; {len(content):,} bytes"


def main() -> None:
    """Parse, make, write."""
    parser = argparse.ArgumentParser(description="Make the bundle of `lookalike quickstart`.")
    parser.add_argument("source", type=Path, help="the unpacked emoji data set")
    parser.add_argument("output", type=Path, help="the archive to write")
    parser.add_argument("--train-step", type=int, default=5, help="take every k-th class")
    parser.add_argument("--test-step", type=int, default=6, help="take every k-th class")
    arguments = parser.parse_args()
    content, summary = make(
        arguments.source, train_step=arguments.train_step, test_step=arguments.test_step
    )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    sys.stdout.write(f"{arguments.output}: {summary}; sha256 {digest}\n")


if __name__ == "__main__":
    main()
