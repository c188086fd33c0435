"""Search by a picture with the model of a run: loaded once, kept for the next picture."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lookalike.data.decoding.decode import decode_given
from lookalike.data.record import Record
from lookalike.errors import ConfigError, RunError
from lookalike.studio.galleries import Gallery
from lookalike.studio.roots import Roots
from lookalike.studio.watched_runs import WatchedRun

if TYPE_CHECKING:
    from lookalike.exporting.exported import ExportedModel
    from lookalike.index.decision import Neighbour
    from lookalike.metrics.calibration import Calibration
    from lookalike.model.embedder import Embedder

MAX_PIXELS = 50_000_000
NEIGHBOURS = 12
_KEPT = 2  # models in memory: two are compared
_SIDE, _QUERY_SIDE = 176, 320  # pixels of a picture
_FILES = ("config.json", "model.safetensors", "calibration.json", "lookalike.json")


@dataclass(frozen=True)
class Shown:
    """A neighbour and its picture, "" where it cannot be shown."""

    neighbour: Neighbour
    picture: str


@dataclass(frozen=True)
class Answered:
    """The neighbours of a picture by one run.

    Attributes:
        known: True if the best neighbour is rather the same; None without a calibration.
        threshold: cosine from which two images are rather the same than different.
        prior: that the probabilities assume; None without a calibration.
        searched: images of the gallery.
    """

    run: str
    neighbours: list[Shown]
    known: bool | None
    threshold: float | None
    prior: float | None
    searched: int


class PictureSearch:
    """The last models, and searches with them, one at a time."""

    def __init__(self, roots: Roots) -> None:
        self.roots = roots
        self._lock = threading.Lock()
        self._loaded: OrderedDict[
            tuple[str, float], tuple[Embedder | ExportedModel, Calibration | None]
        ] = OrderedDict()

    def search(self, run: WatchedRun, gallery: Gallery, query: np.ndarray | str) -> Answered:
        """The neighbours of a query.

        Args:
            gallery: prepared by `Galleries.prepare`.
            query: a picture (H, W, 3) uint8, or the id of an image of the gallery.

        Raises:
            LookalikeError: no model, an index of another model, or no such image.
        """
        from lookalike.commands.search import cached_index
        from lookalike.index.index import Index
        from lookalike.serving.served_index import ServedIndex

        with self._lock:
            embedder, calibration = self._model(run)
            place = gallery.index or cached_index(embedder, gallery.places)
            with Index.open(place, embedder) as index:
                if isinstance(query, str):
                    if query not in index.records([query]):
                        raise ConfigError(f"{query[:120]!r}: not in this gallery")
                    vectors = index.vectors([query])
                else:
                    vectors = embedder.embed(query)[None]
                found = ServedIndex(index, calibration).search(
                    vectors, NEIGHBOURS + 1, None, None, None
                )
                near = [
                    one
                    for one in found.answers[0].neighbours
                    if not isinstance(query, str) or one.id != query
                ][:NEIGHBOURS]
                pictures = self.pictures(index.records([one.id for one in near]))
                count = len(index)
        return Answered(
            run.name,
            [Shown(one, pictures.get(one.id, "")) for one in near],
            near[0].same if near else None,
            found.threshold,
            found.prior,
            count,
        )

    @staticmethod
    def query(content: bytes) -> tuple[np.ndarray, str]:
        """The pixels (H, W, 3) uint8 of an encoded picture, and a small one as a data URI.

        Raises:
            BadImage: it is none, or too large.
        """
        pixels = decode_given(content, MAX_PIXELS)
        from lookalike.data.loading.thumbnails import data_uri

        return pixels, data_uri(pixels, _QUERY_SIDE)

    def pictures(self, records: Mapping[str, Record]) -> dict[str, str]:
        """Small pictures as data URIs, of the images that may be read."""
        from lookalike.data.loading.image_source import Source
        from lookalike.data.loading.thumbnails import data_uris

        names = [name for name, record in records.items() if self.roots.permits(record.uri)]
        uris = data_uris([records[name] for name in names], _SIDE, Source(threads=2))
        return dict(zip(names, uris, strict=True))

    def _model(self, run: WatchedRun) -> tuple[Embedder | ExportedModel, Calibration | None]:
        from lookalike.commands.models import calibration_of, load

        if not run.has_model:
            raise RunError(f"{run.name}: has no model yet")
        written = 0.0
        for name in _FILES:  # links that lead out of the roots are refused
            file = self.roots.resolve(str(run.path / "model" / name))
            written = max(written, file.stat().st_mtime if file.is_file() else 0.0)
        key = (str(run.path), written)
        if key not in self._loaded:
            # On the CPU: a training may need the accelerator, and one picture is quick.
            embedder = load(run.path, device="cpu")
            self._loaded[key] = embedder, calibration_of(run.path, embedder)
        self._loaded.move_to_end(key)
        while len(self._loaded) > _KEPT:
            self._loaded.popitem(last=False)
        return self._loaded[key]
