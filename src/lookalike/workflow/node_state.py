"""State of a node on disk, and digests of what goes in and comes out.

.lookalike/NAME/           of the workflow NAME.yaml, beside it
.lookalike/NAME/.lock      held while the workflow runs
.lookalike/NAME/NODE/state.json
.lookalike/NAME/NODE/log.txt
.lookalike/NAME/NODE/N/    results of the attempt N
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lookalike import storage
from lookalike.data.readers.path_patterns import expand_choices, is_pattern, matches
from lookalike.data.readers.streams import is_stream
from lookalike.errors import ConfigError, DataError, RunError
from lookalike.index.manifest import FILE as INDEX_MANIFEST
from lookalike.storage.local_files import digest_of
from lookalike.workflow.node_kinds import PortType

STATE = "state.json"
LOG = "log.txt"

StateName = Literal["new", "running", "done", "failed", "stopped"]


@dataclass(frozen=True)
class Output:
    """Result of a node: its place, and a digest of its content."""

    place: str
    digest: str


@dataclass(frozen=True)
class NodeState:
    """State of a node.

    Attributes:
        state: `running` too after its process was killed.
        fingerprint: of the settings and inputs of the newest attempt.
        attempt: its number, from 1 on; 0 before the first.
        outputs: by port.
        error: one line, of a failed one.
    """

    state: StateName = "new"
    fingerprint: str = ""
    attempt: int = 0
    seconds: float = 0.0
    outputs: dict[str, Output] = field(default_factory=dict)
    error: str = ""

    @classmethod
    def read(cls, folder: Path) -> NodeState:
        """The state in the folder of a node.

        Raises:
            RunError: the file is damaged.
        """
        path = folder / STATE
        if not path.exists():
            return cls()
        try:
            found = json.loads(path.read_text("utf-8"))
            outputs = {port: Output(**one) for port, one in found.pop("outputs").items()}
            state = cls(**found, outputs=outputs)
            if not isinstance(state.attempt, int) or not isinstance(state.fingerprint, str):
                raise TypeError("attempt")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise RunError(f"{path}: is damaged; remove it, and the node runs again") from None
        return state

    def write(self, folder: Path) -> None:
        """Replace the file in the folder of a node; addresses without their signatures."""
        text = json.dumps(_unsigned(asdict(self)), indent=1) + "\n"
        storage.write_text(folder / STATE, text)


def fingerprint_of(
    uses: str, settings: Mapping[str, Any], inputs: Mapping[str, list[Output]]
) -> str:
    """Digest of what a node does: its kind, settings, and inputs by port."""
    # Addresses may hold secrets, and some change with each signature.
    given = {port: [[one.place, one.digest] for one in some] for port, some in inputs.items()}
    text = json.dumps([uses, _unsigned(settings), _unsigned(given)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _unsigned(value: Any) -> Any:
    if isinstance(value, str):
        return storage.unsigned(value)
    if isinstance(value, Mapping):
        return {key: _unsigned(inner) for key, inner in value.items()}
    return [_unsigned(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def content_of(place: str, type: PortType) -> str:
    """Digest of what lies at a place.

    Of files and models it is of their bytes; of a folder of images, of names, sizes and times; of
    something remote, of the versions that the storage reports; of an index, of its manifest. The
    images that a list names do not count.

    Raises:
        DataError: nothing lies there.
        ConfigError: it can be read only once.
    """
    if is_stream(place):
        raise ConfigError(f"{place}: can be read only once; write the list to a file")
    found = hashlib.sha256()
    for one in expand_choices(place):
        for file in matches(one) if is_pattern(one) else [one]:
            found.update(f"{storage.unsigned(file)} {_content(file, type)}\n".encode())
    return found.hexdigest()


def _content(place: str, type: PortType) -> str:
    if storage.is_remote(place):
        if storage.is_folder(place):
            return json.dumps(storage.sizes_below(place), sort_keys=True)
        return storage.version_of(place)
    path = Path(storage.local_path(place))
    if path.is_file():
        return digest_of(path)
    if not path.is_dir():
        raise DataError(f"{place}: no such file or folder")
    if type == "index":
        return digest_of(path / INDEX_MANIFEST)
    model = path / "model"
    files = _files(model if type == "run" and model.is_dir() else path)
    if type == "list":
        stats = [(file.relative_to(path), file.stat()) for file in files]
        return "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)
    return "\n".join(f"{file.relative_to(path)} {digest_of(file)}" for file in files)


def _files(folder: Path) -> list[Path]:
    return sorted(Path(root) / name for root, _, names in os.walk(folder) for name in names)
