"""The index of a service: searched in threads, changed by one at a time."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lookalike.errors import ConfigError, DataError
from lookalike.index.decision import Answer, decide, prior_of
from lookalike.index.index import Index
from lookalike.index.segment_search import checked_k
from lookalike.metrics.calibration import Calibration
from lookalike.serving.problems import Problem

_LONGEST_ID = 1024  # characters, which an address of a request can hold


@dataclass(frozen=True)
class Found:
    """Answers of a search.

    Attributes:
        answers: one for each query.
        threshold: the cosine from which two images are rather the same than different; None where
            none is enough, or without a calibration.
        prior: that the probabilities assume; None without a calibration.
    """

    answers: list[Answer]
    threshold: float | None
    prior: float | None


class ServedIndex:
    """An index with the calibration of its model."""

    def __init__(
        self, index: Index, calibration: Calibration | None, *, read_only: bool = False
    ) -> None:
        self.index, self.calibration, self.read_only = index, calibration, read_only
        self._writing = threading.Lock()

    def search(
        self,
        vectors: np.ndarray,
        k: int,
        labels: Sequence[str] | None,
        least: float | None,
        prior: float | None,
    ) -> Found:
        """Neighbours of vectors (N, D).

        Args:
            k: neighbours of each at most.
            labels: only images with one of them.
            least: cosine of a neighbour.
            prior: share of same pairs; by default from the calibration, for the whole index.

        Raises:
            LookalikeError: a wrong k, label or prior.
        """
        if prior is not None and self.calibration is None:
            raise ConfigError("prior: the model has no calibration; train with a validation list")
        # Counted only where it matters: a database takes a while for it.
        count = 1 if self.calibration is None or prior is not None else len(self.index)
        assumed = prior_of(self.calibration, count, prior)
        hits = self.index.search(
            vectors, checked_k(k), among=None if labels is None else tuple(labels)
        )
        answers = []
        for ids, cosines, found in zip(hits.ids, hits.cosines, hits.labels, strict=True):
            count = len(ids) if least is None else int((cosines >= least).sum())
            answers.append(
                decide(None, ids[:count], cosines[:count], found[:count], self.calibration, assumed)
            )
        threshold = None
        if self.calibration is not None and assumed is not None:
            threshold = self.calibration.cosine_of(assumed)
        return Found(answers, threshold, assumed)

    def check_ids(self, ids: Sequence[str]) -> None:
        """Refuse ids that cannot stand in an address or a log line."""
        for id in ids:
            if not id or len(id) > _LONGEST_ID or not id.isprintable():
                raise DataError(f"id {id[:40]!r}: has 1 to {_LONGEST_ID} printable characters")

    def add(
        self, vectors: np.ndarray, ids: Sequence[str], labels: Sequence[str | None] | None
    ) -> int:
        """Add vectors (N, D), or replace those of the same ids; returns their number.

        Raises:
            Problem: the index is served read-only.
            LookalikeError: wrong ids or labels, or another process writes.
        """
        self.check_writable()
        with self._writing:
            return self.index.add(vectors=vectors, ids=list(ids), labels=labels)

    def remove(self, id: str) -> None:
        """Remove one image.

        Raises:
            Problem: it is not there, or the index is served read-only.
            LookalikeError: another process writes.
        """
        self.check_writable()
        self.check_ids([id])
        with self._writing:
            if not self.index.remove([id]):
                raise Problem(404, f"{id!r} is not in the index")

    def check_writable(self) -> None:
        if self.read_only:
            raise Problem(403, "the index is served read-only (--read-only)")
