"""Limit on unreadable images, counted over all workers."""

from __future__ import annotations

import math

from lookalike.data.catalog import Catalog
from lookalike.data.loading.bad_images import RELATIVE_PATHS, BadImages, describe_bad
from lookalike.distributed.world import World
from lookalike.errors import DataError
from lookalike.log import logger
from lookalike.run import Run
from lookalike.storage.retry import MISSING

_SHOWN = 10


class BadImageLimit:
    """Unreadable images of all workers, logged as they are found, and the limit on their number.

    Args:
        bad: found by this worker's loader.
        limit: a part of the catalog below 1 (rounded up), a count from 1 on.
        run: its bad_images.jsonl gets a line for each, from the main worker.
    """

    def __init__(
        self, bad: BadImages, catalog: Catalog, *, limit: float, run: Run, world: World
    ) -> None:
        self.bad = bad
        self.catalog = catalog
        self.allowed = int(limit) if limit >= 1 else math.ceil(limit * len(catalog))
        self.run = run
        self.world = world
        self._known: dict[int, str] = {}

    def restore(self, reasons: dict[int, str]) -> None:
        """Add the images that were found before a resume."""
        for row, reason in reasons.items():
            self.bad.add(row, reason)
        self._known.update(reasons)

    def unshared(self) -> int:
        """Number of images that only this worker found."""
        return len(self.bad) - len(self._known)

    def gather(self) -> None:
        """Exchange and log the images that workers found; called by all workers together.

        Raises:
            DataError: more images are bad than the limit allows; the same on every worker.
        """
        reasons = dict(self.bad.reasons)
        mine = {row: reason for row, reason in reasons.items() if row not in self._known}
        for part in self.world.all_gather_object(mine):
            for key, reason in part.items():
                self._add(int(key), reason)
        if len(self._known) > self.allowed:
            first = "\n".join(self._line(row) for row in list(self._known)[:_SHOWN])
            missing = set(self._known.values()) == {MISSING}
            root = f" {RELATIVE_PATHS}" if missing else ""
            raise DataError(
                f"{len(self._known)} of {len(self.catalog)} images cannot be read, more than the "
                f"{self.allowed} that data.max_bad_images allows; fix or remove them, or raise "
                f"it.{root} The first ones:\n{first}"
            )

    def _add(self, row: int, reason: str) -> None:
        if row in self._known:
            return
        self._known[row] = reason
        self.bad.add(row, reason)
        if self.world.is_main:
            record = self.catalog.records[row]
            logger.warning("bad image: %s", self._line(row))
            self.run.append(
                self.run.bad_images,
                {"row": row, "origin": record.origin, "uri": record.place, "reason": reason},
            )

    def _line(self, row: int) -> str:
        record = self.catalog.records[row]
        reason = self._known[row]
        if record.place in reason:
            return f"{record.origin}: {reason}"
        return describe_bad(record, reason)
