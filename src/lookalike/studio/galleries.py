"""Galleries in which a run's model searches: its lists, and the indexes below the roots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lookalike import storage
from lookalike.config.config import Config
from lookalike.errors import ConfigError, LookalikeError, RunError
from lookalike.run import Run
from lookalike.studio.roots import Roots
from lookalike.studio.run_processes import DONE, MISSING, WORKING, RunProcesses, WorkState, state_of
from lookalike.studio.watched_runs import WatchedRun, WatchedRuns

VALIDATION, TRAINING = "validation", "training"


@dataclass(frozen=True)
class Gallery:
    """Images to search.

    Attributes:
        name: by which requests name it.
        places: lists, of which an index is made; none for an index that is there.
        index: the folder or the address of that index.
        run: the one whose lists they are, read by its settings.
    """

    name: str
    label: str
    places: tuple[str, ...] = ()
    index: Path | str | None = None
    run: Path | None = None


class Galleries:
    """The galleries of the runs below the roots, and indexes in databases.

    Raises:
        ConfigError: an address is none of a database.
    """

    def __init__(
        self,
        roots: Roots,
        processes: RunProcesses,
        runs: WatchedRuns,
        addresses: Sequence[str] = (),
    ) -> None:
        self.roots, self.processes, self.runs = roots, processes, runs
        self._databases = list(map(database_gallery, addresses))

    def of_run(self, run: WatchedRun) -> list[Gallery]:
        """The lists of a run, validation first, and all indexes."""
        lists = _lists(self.runs.settings(run, asked=True), run)
        return [*lists, *self._indexes(), *self._databases]

    def named(self, run: WatchedRun, name: str) -> Gallery:
        """The gallery of a name, with the places of a list absolute and below the roots.

        Raises:
            ConfigError: there is none, or it lies elsewhere.
        """
        if name in (VALIDATION, TRAINING):
            offered = _lists(self.runs.permitted(run, "data."), run)
        else:
            offered = [*self._indexes(), *self._databases]
        for each in offered:
            if each.name == name:
                return each
        raise ConfigError(f"{name[:120]!r}: no gallery of {run.name}")

    def prepare(self, run: WatchedRun, gallery: Gallery) -> None:
        """Embed the images of a list, in a process of its own, unless that is done.

        Raises:
            RunError: the run has no model.
        """
        if not run.has_model:
            raise RunError(f"{run.name}: has no model yet; its training writes one at the end")
        if gallery.index is not None:
            return
        with self.processes.one_at_a_time():
            if self.state(run, gallery).state not in (DONE, WORKING):
                self._embed(run, gallery)

    def _embed(self, run: WatchedRun, gallery: Gallery) -> None:
        lists = [word for place in gallery.places for word in ("--gallery", place)]
        if gallery.run is not None and gallery.run != run.path:
            lists += ["--lists-of", str(gallery.run)]
        self.processes.launch(
            _subject(run, gallery), lambda folder: ["search", str(run.path), *lists]
        )

    def state(self, run: WatchedRun, gallery: Gallery) -> WorkState:
        """State of a gallery: one that is done can be searched."""
        if gallery.index is not None:
            return WorkState(DONE)
        process = self.processes.newest("search", _subject(run, gallery))
        found = state_of(process)
        if process is not None and found.state == DONE and run.has_model:
            written = (Run(run.path).model / "config.json").stat().st_mtime
            return found if process.began >= written else WorkState(MISSING)
        return found

    def _indexes(self) -> list[Gallery]:
        from lookalike.index import manifest

        found = []
        for folder in self.roots.walk():
            if not (folder / manifest.FILE).is_file():
                continue
            try:
                count = manifest.read(folder).live
            except LookalikeError:
                continue  # another program's manifest.json
            name = self.roots.name(folder)
            found.append(Gallery(f"index:{name}", f"index {name}: {count:,} images", index=folder))
        return found


def _lists(config: Config, run: WatchedRun) -> list[Gallery]:
    found = []
    for name, lists in ((VALIDATION, config.data.val), (TRAINING, config.data.train)):
        if places := (lists,) if isinstance(lists, str) else tuple(lists or ()):
            shown = ", ".join(storage.public(place).rpartition("/")[2] for place in places)
            found.append(Gallery(name, f"{name} images: {shown}", places, run=run.path))
    return found


def database_gallery(address: str) -> Gallery:
    """The gallery of an index in a database.

    Raises:
        ConfigError: the address is none.
    """
    from lookalike.index.store_address import BACKENDS, check_index_place, is_store_address

    place = storage.public(address)
    if not is_store_address(address):
        forms = " or ".join(backend.form for backend in BACKENDS.values())
        raise ConfigError(
            f"--index {place}: give {forms}; indexes in folders below --root are found without it"
        )
    check_index_place(address)
    return Gallery(f"index:{place}", f"index {place}", index=address)


def _subject(run: WatchedRun, gallery: Gallery) -> str:
    return "\n".join([str(run.path), *gallery.places])
