"""A run's directory as it is at one moment, kept while the run goes on: what an upload takes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lookalike.run import Run


class Stages:
    """The moments that are kept, in a hidden folder of the run, which this empties first.

    Args:
        run: the directory.
        root: what of it is taken: all of it, or a folder below.
    """

    def __init__(self, run: Run, root: Path) -> None:
        self._run, self._root = run, root
        self._folder = run.path / ".upload"
        self._count = 0
        self.clear()

    def take(self) -> Path:
        """The directory as it is now: links of what is replaced as a whole, copies of the rest.

        Of the checkpoints there are only `latest` and `best`.

        Returns:
            A folder of its own; the caller removes it.
        """
        self._count += 1
        stage = self._folder / str(self._count)
        names = {
            (self._run.checkpoints / pointer).read_text("utf-8").strip()
            for pointer in ("latest", "best")
            if (self._run.checkpoints / pointer).exists()
        }
        for path in _files(self._root):
            name = path.relative_to(self._run.path)
            top = name.parts[0]
            wanted = len(name.parts) < 3 or top != "checkpoints" or name.parts[1] in names
            if not wanted or name.name[0] == ".":
                continue
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".safetensors" and top == "checkpoints":
                os.link(path, stage / name)
            else:
                shutil.copyfile(path, stage / name)
        return stage

    def clear(self) -> None:
        """Remove all of them."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _files(folder: Path) -> list[Path]:
    """All files below `folder`, in order, but not what lies in hidden folders.

    Among these are the stages, which the upload's thread is emptying meanwhile.
    """
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place) / name for name in files]
    return sorted(found)
