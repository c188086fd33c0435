"""Errors that a user can cause, as a tree.

    LookalikeError            one clear line (or a short list of lines), exit code 2
    ├── ConfigError           a key or a value of the request is wrong
    ├── DataError             a list, a label or an image is wrong
    ├── ModelError            a backbone name or a weights file is wrong
    ├── RunError              an output directory or a checkpoint is wrong
    ├── StorageError          a URI cannot be read or written
    ├── TrainingError         training cannot continue (the loss is not finite, ...)
    ├── ExportError           an exported model is not what the trained one is
    ├── ConsoleError          the console cannot be written to
    ├── Interrupted           a signal ended training; a checkpoint was saved
    ├── SearchInterrupted     a signal ended a search; its finished trials are saved
    └── MissingExtraError     an optional dependency is not installed

A message names the place, the value, the choices and the fix. Anything that is not a
`LookalikeError` is our own mistake and keeps its traceback.
"""

import errno
import importlib.util
import math
import os
import shlex
import signal
from numbers import Integral, Real
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints


class LookalikeError(Exception):
    """Base of all errors that a user can cause and fix."""

    exit_code = 2

    @staticmethod
    def of_system(error: OSError) -> "LookalikeError | None":
        """The error of a system call, with its path; None without one, but for a full disk."""
        reason = os.strerror(error.errno).lower() if error.errno else ""
        places = [error.filename, error.filename2]  # a number is that of a file descriptor
        names = [os.fsdecode(place) for place in places if isinstance(place, str | bytes)]
        if reason and names:
            return LookalikeError(f"{' -> '.join(names)}: {reason}")
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
            return LookalikeError(f"a file cannot be written: {reason}")
        return None


def reason_of(error: OSError, default: str = "") -> str:
    """The reason of a system error in lower case, without its number and path."""
    return (error.strerror or default).lower()


class ConfigError(LookalikeError):
    """A key or a value of the request is wrong."""


class DataError(LookalikeError):
    """A list, a label or an image is wrong."""


class ModelError(LookalikeError):
    """A backbone name or a weights file is wrong."""


class NotFiniteError(ModelError):
    """A model gives vectors that hold NaN or infinity."""


class RunError(LookalikeError):
    """An output directory or a checkpoint is wrong."""


class StorageError(LookalikeError):
    """A URI cannot be read or written."""


class MissingFileError(StorageError):
    """There is no such file."""


class CredentialsError(StorageError):
    """The storage refuses the credentials."""


class UnavailableError(StorageError):
    """The storage does not answer."""


class TrainingError(LookalikeError):
    """Training cannot continue."""


class ExportError(LookalikeError):
    """A model cannot be exported, or the export differs from the trained model."""


class ConsoleError(LookalikeError):
    """Standard output or standard error cannot be written to; of a closed one, exits as SIGPIPE."""

    def __init__(self, name: str, error: OSError) -> None:
        self.is_closed = error.errno in (errno.EPIPE, errno.EIO, errno.EBADF)
        super().__init__(f"{name}: cannot be written to: {reason_of(error)}")
        if self.is_closed:
            self.exit_code = 128 + signal.SIGPIPE


class Interrupted(LookalikeError):
    """A signal ended training; a checkpoint was saved."""

    def __init__(self, number: int, step: int, output: str) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name} at step {step}, which is saved; "
            f"resume with: lookalike train --resume --output {shlex.quote(output)}"
        )
        self.exit_code = 128 + number


class SearchInterrupted(LookalikeError):
    """A signal ended a search; its finished trials are saved."""

    def __init__(self, number: int, trials: int, output: str) -> None:
        done = f"{trials} finished trial{'' if trials == 1 else 's'}"
        super().__init__(
            f"stopped by {signal.Signals(number).name} with {done} in {output}; the same command "
            "resumes it"
        )
        self.exit_code = 128 + number


class MissingExtraError(LookalikeError):
    """An optional dependency is not installed; names its extra."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed; it comes with: pip install 'lookalike[{extra}]'"
        )


def check_installed(extra: str, *packages: str) -> None:
    """Raise a MissingExtraError unless the packages of an extra are there, without an import."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, extra)


def check_integer(
    name: str, value: object, least: int, error: type[LookalikeError] = ConfigError
) -> None:
    """Raise an error unless an argument is an integer that is not below `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise error(f"{name}={value!r} must be an integer from {least} on")


def check_number(name: str, value: Any, least: float, *, above: bool = False) -> None:
    """Raise a ConfigError unless an argument is a finite number from `least` on, or above it."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < least or (above and value == least):
        bound = f"above {least:g}" if above else f"from {least:g} on"
        raise ConfigError(f"{name}={value!r} must be a number {bound}")


_KINDS: dict[Any, tuple[type, str]] = {
    bool: (bool, "True or False"),
    int: (Integral, "an integer"),
    float: (Real, "a number"),
    str: (str, "a text"),
    os.PathLike: (os.PathLike, "a path"),
    type(None): (type(None), "None"),
}


def check_fields(options: object) -> None:
    """Raise a ConfigError unless the fields of a dataclass are of their types.

    Those that hold several values are left out, and those that are a text and nothing else: they
    have errors of their own, with the choices.
    """
    for name, hint in get_type_hints(type(options)).items():
        union = isinstance(hint, UnionType)
        kinds = [get_origin(kind) or kind for kind in (get_args(hint) if union else (hint,))]
        if kinds == [str] or not _KINDS.keys() >= set(kinds):
            continue
        value = getattr(options, name)
        is_bool = isinstance(value, bool) and bool not in kinds  # which is an integer to Python
        if is_bool or not isinstance(value, tuple(_KINDS[kind][0] for kind in kinds)):
            words = " or ".join(_KINDS[kind][1] for kind in kinds)
            raise ConfigError(f"{name}={value!r} must be {words}")


def one_line(error: BaseException, most: int = 200) -> str:
    """The cause in an exception of a library, in one line of at most `most` characters."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].startswith("Error(s) in loading state_dict"):
        lines = lines[1:]  # a headline of torch
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= most else text[: most - 3] + "..."
