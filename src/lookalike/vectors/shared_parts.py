"""Parts of vectors that several machines make together, in object storage or a shared folder.

    manifest.json     the request, and whether the vectors are complete
    000012.part       see `lookalike.vectors.vector_parts`

Machines do not communicate: a part that is there is done, and the same part of two machines has the
same bytes.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from lookalike import storage
from lookalike.errors import RunError
from lookalike.vectors.vector_parts import MANIFEST, Part, Parts, Request

_SUFFIX = ".part"


class SharedParts:
    """The parts of a request, at a place that all machines see.

    Args:
        place: a folder, or its URI.
        folder: of this worker alone, where parts are kept for a moment.
    """

    def __init__(self, place: str, folder: Path, request: Request) -> None:
        self.place, self.request = place, request
        self.local = Parts(folder, request)
        self._manifest = storage.join(place, MANIFEST)

    def begin(self) -> bool:
        """Begin, or resume what was begun by anyone; False if the vectors are complete.

        Raises:
            RunError: there are parts of another request.
        """
        self.local.begin(restart=True)
        known = self._read()
        if known is not None and known["request"] == asdict(self.request):
            return not known["complete"]
        if known is not None and not known["complete"]:
            raise RunError(
                f"{storage.public(self.place)}: holds parts of another model or list of images; "
                "repeat the first command to finish it, or remove that folder"
            )
        self._write(complete=False)
        return True

    def is_complete(self) -> bool:
        """True if `end` was called, by any machine."""
        known = self._read()
        return known is not None and bool(known["complete"])

    def missing(self) -> list[int]:
        """Numbers of the parts that are not there yet; none if the vectors are complete."""
        done = {int(name.removesuffix(_SUFFIX)) for name in self._names()}
        missing = [number for number in range(self.request.parts) if number not in done]
        # Parts are removed after the end: what is missing now may have been there.
        return [] if missing and self.is_complete() else missing

    def write(self, number: int, part: Part) -> None:
        """Write a part."""
        self.local.write(number, part)
        storage.write_file(self.local.path(number), self._uri(number))
        self.local.remove_part(number)

    def fetch(self, numbers: Iterable[int]) -> None:
        """Bring parts to `local`."""
        for number in numbers:
            if storage.is_remote(self.place):
                storage.fetch_file(self._uri(number), self.local.path(number))
            else:
                storage.write_file(self._uri(number), str(self.local.path(number)))

    def end(self) -> None:
        """Record that the vectors are complete, and remove their parts."""
        self._write(complete=True)
        self.remove(range(self.request.parts))

    def remove(self, numbers: Iterable[int]) -> None:
        """Remove parts, those of them that are there."""
        for number in numbers:
            _remove(self._uri(number))

    def remove_manifest(self) -> None:
        """Remove the manifest, after the parts."""
        _remove(self._manifest)
        if not storage.is_remote(self.place):
            with contextlib.suppress(OSError):  # not empty, or removed by another worker
                Path(storage.local_path(self.place)).rmdir()

    def _names(self) -> list[str]:
        if storage.is_remote(self.place):
            names = list(storage.sizes_below(self.place))
        else:
            names = [path.name for path in Path(storage.local_path(self.place)).glob("[0-9]*")]
        return [name for name in names if name.endswith(_SUFFIX)]

    def _read(self) -> dict[str, object] | None:
        """The manifest; None without one, or where it is broken: it is written anew."""
        content = storage.read_if_exists(self._manifest)
        try:
            found = None if content is None else json.loads(content)
        except ValueError:
            return None
        keys = {"request", "complete"}
        return found if isinstance(found, dict) and found.keys() == keys else None

    def _write(self, *, complete: bool) -> None:
        text = json.dumps({"request": asdict(self.request), "complete": complete})
        storage.write_text(self._manifest, text)

    def _uri(self, number: int) -> str:
        return storage.join(self.place, f"{number:06d}{_SUFFIX}")


def _remove(uri: str) -> None:
    if storage.is_remote(uri):
        storage.remove_file(uri)
    else:
        Path(storage.local_path(uri)).unlink(missing_ok=True)
