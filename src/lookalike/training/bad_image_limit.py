"""How many bad images a run bears, counted over all workers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from lookalike.data.catalog import Catalog
from lookalike.data.loading.bad_images import BadImages, describe_bad
from lookalike.distributed.world import World
from lookalike.errors import DataError
from lookalike.log import logger

_SHOWN = 10


class BadImageLimit:
    """The bad images of all workers, named as they are found, and the limit on their number.

    Args:
        bad: what this worker's loader found.
        catalog: the images.
        limit: how many may be bad: a part of the catalog below 1 (rounded up), a count from 1 on.
        world: the workers.
        record: takes one object for each bad image, on the main worker.
    """

    def __init__(
        self,
        bad: BadImages,
        catalog: Catalog,
        *,
        limit: float,
        world: World,
        record: Callable[[dict[str, Any]], None],
    ) -> None:
        self.bad = bad
        self.catalog = catalog
        self.allowed = int(limit) if limit >= 1 else math.ceil(limit * len(catalog))
        self.world = world
        self.record = record
        self._known: dict[int, str] = {}

    def restore(self, reasons: dict[int, str]) -> None:
        """Take over what was found before a resume."""
        for row, reason in reasons.items():
            self.bad.add(row, reason)
        self._known.update(reasons)

    def unshared(self) -> int:
        """How many bad images only this worker knows of."""
        return len(self.bad) - len(self._known)

    def share(self) -> None:
        """Tell all workers what each found, name it, and see whether it is too much.

        To be called by all workers together.

        Raises:
            DataError: more images are bad than the limit allows; the same on every worker.
        """
        reasons = dict(self.bad.reasons)
        mine = {row: reason for row, reason in reasons.items() if row not in self._known}
        for part in self.world.all_gather_object(mine):
            for key, reason in part.items():
                self._found(int(key), reason)
        if len(self._known) > self.allowed:
            first = "\n".join(self._line(row) for row in list(self._known)[:_SHOWN])
            raise DataError(
                f"{len(self._known)} of {len(self.catalog)} images cannot be read, more than the "
                f"{self.allowed} that data.max_bad_images allows; fix or remove them, or raise "
                f"it. The first ones:\n{first}"
            )

    def _found(self, row: int, reason: str) -> None:
        if row in self._known:
            return
        self._known[row] = reason
        self.bad.add(row, reason)
        if self.world.is_main:
            record = self.catalog.records[row]
            logger.warning("bad image: %s", self._line(row))
            self.record(
                {"row": row, "origin": record.origin, "uri": record.place, "reason": reason}
            )

    def _line(self, row: int) -> str:
        record = self.catalog.records[row]
        reason = self._known[row]
        if record.place in reason:
            return f"{record.origin}: {reason}"
        return describe_bad(record, reason)
