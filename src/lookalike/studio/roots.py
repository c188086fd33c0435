"""The folders that the studio may read, list and write; every path of a request passes here."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lookalike import storage
from lookalike.errors import ConfigError, reason_of

YAML = (".yaml", ".yml")

_REMOTE = ("oss", "s3", "gs")

_MOST_LISTED = 500
_CLOCK_TICK = 2 * 10**9  # nanoseconds, of the coarsest file system
_ENCODED = re.compile(r"%[0-9a-fA-F]{2}")


@dataclass(frozen=True)
class Entry:
    """A file or folder of a listing; `name` is that of `Roots.name`."""

    name: str
    label: str
    is_folder: bool


class Roots:
    """Folders below which all paths lie. A relative path starts at the first one.

    Raises:
        ConfigError: none is given, or one is no folder.
    """

    def __init__(self, folders: Sequence[Path | str]) -> None:
        self.folders: list[Path] = []
        for folder in folders:
            path = Path(os.path.realpath(folder))
            if not path.is_dir():
                raise ConfigError(f"--root {folder} is not a folder")
            if path not in self.folders:
                self.folders.append(path)
        self._known: dict[Path, tuple[int, tuple[list[Path], list[Path]]]] = {}
        if not self.folders:
            raise ConfigError("the studio needs a --root, the folder of lists and runs")

    def resolve(self, text: str) -> Path:
        """The absolute path, without links, that a text of a request names.

        Raises:
            ConfigError: it is not below a root, or is written so as to hide where it leads.
        """
        shown = repr(text[:120])
        if any(ord(sign) < 32 or ord(sign) == 127 or "\ud800" <= sign <= "\udfff" for sign in text):
            raise ConfigError(f"{shown}: a path has no control characters")
        if len(text) > 1000 or any(len(part.encode()) > 255 for part in text.split("/")):
            raise ConfigError(f"{shown}: the path is too long")
        if "://" in text or re.match(r"[a-zA-Z][\w+.-]*:", text):
            raise ConfigError(f"{shown}: not a path of this machine")
        if "\\" in text or _ENCODED.search(text):
            raise ConfigError(f"{shown}: has a backslash or an encoded character; rename it")
        if text.startswith("~") or ".." in text.split("/"):
            raise ConfigError(f"{shown}: a path has neither '..' nor '~' here; write it in full")
        try:
            path = Path(os.path.realpath(self.folders[0] / text))
        except (OSError, ValueError):
            raise ConfigError(f"{shown}: cannot be a path") from None
        if not self.contains(path):
            places = ", ".join(map(str, self.folders))
            raise ConfigError(f"{shown}: not below {places}; --root DIR adds a folder")
        return path

    def place(self, text: str) -> str:
        """A path, or a URI in object storage, that a setting names: absolute.

        Raises:
            ConfigError: as `resolve`, or the URI is of another kind.
        """
        if is_object(text):
            if any(ord(sign) < 32 for sign in text) or ".." in re.split(r"[/\\]", text):
                raise ConfigError(f"{storage.public(text)!r}: not the URI of an object")
            return text
        if any(sign in text for sign in "*?{}[]"):
            raise ConfigError(
                f"{text[:120]!r}: the studio takes a list by its name; patterns are for the "
                "command line"
            )
        return str(self.resolve(text))

    def contains(self, path: Path) -> bool:
        """True if a path without links is a root or below one."""
        return any(path.is_relative_to(root) for root in self.folders)

    def permits(self, place: str) -> bool:
        """True if an image that a list or an index names may be read for a page."""
        if storage.is_remote(place):
            return is_object(place)
        try:
            return self.contains(Path(os.path.realpath(self.folders[0] / storage.path_of(place))))
        except (OSError, ValueError):
            return False

    def name(self, path: Path) -> str:
        """The shortest text that `resolve` takes for a path."""
        return self.name_from(path, self.folders[0])

    def name_from(self, path: Path, folder: Path) -> str:
        """A path as seen from a folder; absolute if it is not below it."""
        return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)

    def listing(self, text: str) -> list[Entry]:
        """Folders, then files, in a folder; without hidden ones and links that lead out.

        Raises:
            ConfigError: as `resolve`, or it is no folder that can be read.
        """
        folder = self.resolve(text)
        try:
            children = sorted(folder.iterdir(), key=lambda child: child.name)
        except OSError as error:
            raise ConfigError(f"{text[:120]!r}: cannot be listed: {reason_of(error)}") from None
        found = []
        for child in children:
            real = Path(os.path.realpath(child))
            if not child.name.startswith(".") and self.contains(real) and _is_plain(child.name):
                found.append(Entry(self.name(child), child.name, real.is_dir()))
        found.sort(key=lambda entry: not entry.is_folder)
        return found[:_MOST_LISTED]

    def walk(self, depth: int = 4) -> Iterator[Path]:
        """Folders below the roots to a depth; links are not followed."""
        level = list(self.folders)
        for _ in range(depth + 1):
            yield from level
            level = [inner for folder in level for inner in self._within(folder)[0]]

    def yaml_files(self) -> Iterator[Path]:
        """The visible YAML files in the folders of `walk`."""
        for folder in self.walk():
            yield from self._within(folder)[1]

    def _within(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """The visible folders and YAML files in one; a large one is listed when it has changed."""
        folders: list[Path] = []
        files: list[Path] = []
        try:
            changed = folder.stat().st_mtime_ns
            if folder in self._known and self._known[folder][0] == changed:
                return self._known[folder][1]
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.is_symlink():
                        continue
                    if entry.is_dir():
                        folders.append(folder / entry.name)
                    elif entry.name.endswith(YAML):
                        files.append(folder / entry.name)
        except OSError:
            return [], []
        if time.time_ns() - changed > _CLOCK_TICK:  # else it may change again unnoticed
            self._known[folder] = changed, (folders, files)
        return folders, files


def is_object(place: str) -> bool:
    """True if a setting names an object of a storage that it may name."""
    scheme, mark, _ = place.partition("://")
    return bool(mark) and scheme.lower() in _REMOTE


def _is_plain(name: str) -> bool:
    return "\\" not in name and not _ENCODED.search(name) and name.isprintable()
