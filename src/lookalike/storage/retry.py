"""Retries of requests that may succeed later, and the causes of final failures."""

import asyncio
import os
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from lookalike.errors import (
    CredentialsError,
    LookalikeError,
    MissingFileError,
    StorageError,
    UnavailableError,
)
from lookalike.storage import client_registry
from lookalike.storage.download import TooLargeError, TransferError
from lookalike.storage.uri import is_remote, local_path, public

MISSING = "no such file or directory"
"""The reason of an error about a file that is not there."""

# Errors that do not pass.
_FINAL = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
_WAIT_A_MOMENT = {408, 425, 429}
_MISTAKES = (TypeError, AttributeError, LookupError, NameError, NotImplementedError)
"""Errors of a client itself, which do not pass."""

_REFUSED_BY_CLIENT = -1  # oss2's status of what it does not send

# The codes with which S3 and OSS refuse credentials.
_CREDENTIALS = (
    "ExpiredToken", "SecurityTokenExpired", "InvalidSecurityToken", "InvalidToken",
    "TokenRefreshRequired", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed",
)  # fmt: skip

FIRST_PAUSE = {False: 0.05, True: 0.2}
_LONGEST_PAUSE = 10.0
_REMOTE_FACTOR = 3  # outages of a storage last longer than those of a disk

_OUTAGE = 5  # files that fail without any answer in between: the storage is unavailable
_WEB = ("http", "https")  # many servers, each available or not by itself
_failing: defaultdict[str, set[str]] = defaultdict(set)
"""By scheme: the files that failed since the last answer."""

T = TypeVar("T")


def retrying(action: Callable[[], T], uri: str, retries: int, seconds: float | None = None) -> T:
    """The result of `action`, tried again with growing pauses while its error may pass.

    The pauses for a remote `uri` double from 0.2 s, with jitter.

    Args:
        retries: more tries; for a remote `uri` three times as many.
        seconds: after which no more tries begin; None for any time.

    Raises:
        CredentialsError: the storage refuses the credentials, also when read anew.
        MissingFileError: there is no such file.
        UnavailableError: it failed too often, and so did all requests for other files meanwhile.
        StorageError: it failed for good, or too often.
    """
    tries = _Tries(uri, retries, seconds)
    while True:
        tries.begin()
        try:
            found = action()
        except Exception as error:
            pause = tries.pause_after(error)
        else:
            tries.succeeded()
            return found
        time.sleep(pause)


async def retrying_there(
    action: Callable[[], Awaitable[T]], uri: str, retries: int, seconds: float | None = None
) -> T:
    """`retrying` for coroutines."""
    tries = _Tries(uri, retries, seconds)
    while True:
        tries.begin()
        try:
            found = await action()
        except Exception as error:
            pause = tries.pause_after(error)
        else:
            tries.succeeded()
            return found
        await asyncio.sleep(pause)


class _Tries:
    """The tries of one action."""

    def __init__(self, uri: str, retries: int, seconds: float | None) -> None:
        self._uri = uri
        self._seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds
        self._remote = is_remote(uri)
        self._left = retries * (_REMOTE_FACTOR if self._remote else 1)
        self._pause = FIRST_PAUSE[self._remote]
        self._renewed = False
        self._credentials = 0
        self._kind = uri.partition("://")[0] if self._remote else ""

    def begin(self) -> None:
        """Note the credentials of the next try."""
        self._credentials = client_registry.credentials_number(self._uri)

    def succeeded(self) -> None:
        """Note that the storage answers."""
        _failing[self._kind].clear()

    def pause_after(self, error: Exception) -> float:
        """Seconds before the next try; raises an error that does not pass."""
        if isinstance(error, TooLargeError):
            self.succeeded()
            raise StorageError(f"{public(self._uri)}: {error}") from None
        if isinstance(error, LookalikeError):
            raise error
        # A store's client raises what it likes, not only OSError; on this machine anything
        # else is our own mistake (but ValueError: a NUL in a path, a broken URL).
        if not isinstance(error, OSError | ValueError) and not self._remote:
            raise error
        if self._remote and (code := refusal(error)):
            if self._renewed:
                raise CredentialsError(
                    f"{public(self._uri)}: the storage refuses the credentials ({code}); renew "
                    "them in the environment or the vendor's file, then resume with --resume"
                ) from None
            self._renewed = True
            client_registry.forget_credentials(self._uri, self._credentials)
            return 0.0
        if _final(error):
            # An answer too: the storage is available.
            self.succeeded()
            missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
            kind = MissingFileError if missing else StorageError
            raise kind(f"{self._place_of(error)}: {cause(error)}") from None
        pause = min(self._pause, _LONGEST_PAUSE)
        pause *= random.uniform(0.5, 1) if self._remote else 1
        late = self._end is not None and time.monotonic() + pause >= self._end
        if self._left == 0 or late:
            reason = cause(error)
            if late:
                why = "" if isinstance(error, TimeoutError) else f" ({reason})"
                reason = (
                    f"not read in {self._seconds:g} seconds, the most that data.image_timeout "
                    f"allows{why}"
                )
            if len(_failing[self._kind]) >= _OUTAGE and self._kind not in _WEB:
                raise UnavailableError(
                    f"{public(self._uri)}: {reason}, and the storage does not answer other "
                    "requests either; try again when it can be reached (a run: with --resume)"
                ) from None
            raise StorageError(f"{self._place_of(error)}: {reason}") from None
        self._left -= 1
        _failing[self._kind].add(self._uri)
        self._pause *= 2
        return pause

    def _place_of(self, error: Exception) -> str:
        """The URI, or the folder or file below it that the system names."""
        name = error.filename if isinstance(error, OSError) and not self._remote else None
        if isinstance(name, str) and name.startswith(os.path.join(local_path(self._uri), "")):
            return name
        return public(self._uri)


def cause(error: Exception) -> str:
    """The cause in words, without the error's own, which may quote a URL with its secrets."""
    if isinstance(error, FileNotFoundError):
        return MISSING
    if isinstance(error, PermissionError):
        return "permission denied"
    if isinstance(error, TransferError):
        return str(error)
    if isinstance(error, UnicodeEncodeError):
        return (
            f"this name cannot be written in {error.encoding}, the encoding of file names here; "
            "set PYTHONUTF8=1 or a UTF-8 locale"
        )
    if isinstance(error, ValueError):
        return "not a path or URL that can be opened"
    status = next(filter(None, map(_status, _chain(error))), None)
    if status == _REFUSED_BY_CLIENT:
        return "the client of this storage does not take this name"
    if status is not None:
        meaning = _STATUS_MEANS.get(status)
        return f"the storage answers {status}" + (f" ({meaning})" if meaning else "")
    names = [kind.__name__ for kind in type(error).__mro__]
    for name, words in _ERROR_MEANS.items():
        if name in names:
            return words
    if isinstance(error, _MISTAKES):
        library = type(error).__module__.partition(".")[0]
        place = _raised_in(error) or library
        return (
            f"the client of this storage fails ({type(error).__name__} in {place}); install the "
            "current version of its extra, and report this if it stays"
        )
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = getattr(error, "strerror", None)
    if text:
        return str(text).lower()
    if isinstance(error, ConnectionError):
        return "the connection was broken"
    return f"the request failed ({type(error).__name__})"


_STATUS_MEANS = {
    400: "bad request", 401: "not logged in", 404: "no such file",
    405: "reading is not allowed", 408: "it waited too long", 410: "gone", 416: "no such part",
    429: "too many requests",
}  # fmt: skip

_ERROR_MEANS = {
    "NoCredentialsError": "no credentials; set them in the environment or the vendor's file",
    "PartialCredentialsError": "half of the credentials is missing in the environment",
    "ProfileNotFound": "no such profile in the vendor's configuration (AWS_PROFILE)",
    "ParamValidationError": "no name of a bucket or key that the storage takes",
    "ClientConnectorCertificateError": "the server's certificate cannot be verified",
    "SSLCertVerificationError": "the server's certificate cannot be verified",
    "ClientConnectorDNSError": "the server's name cannot be resolved",
    "gaierror": "the server's name cannot be resolved",
    "ClientConnectorError": "the server cannot be reached",
    "EndpointConnectionError": "the server cannot be reached",
    "ConnectTimeoutError": "the server cannot be reached",
    "ServerTimeoutError": "no answer in time",
    "ReadTimeoutError": "no answer in time",
    "ClientPayloadError": "the answer was cut off",
    "IncompleteRead": "the answer was cut off",
    "ServerDisconnectedError": "the connection was broken",
    "ClientOSError": "the connection was broken",
    "RequestError": "the server cannot be reached",
}
"""By the name of an error's class, as its library may not be installed; the first counts."""

_CERTAIN = frozenset([
    "RedirectError", "WholeOnlyError", "NoCredentialsError", "PartialCredentialsError",
    "ProfileNotFound", "ParamValidationError", "ClientConnectorCertificateError",
    "SSLCertVerificationError", "UnknownEndpointError", "InvalidRegionError", "ConfigParseError",
    "NotSupportedError",
])  # fmt: skip
"""Errors of the clients that do not pass, by the name of their class."""


def _raised_in(error: BaseException) -> str:
    """The package of the code that raised `error`."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    name = place.tb_frame.f_globals.get("__name__", "") if place is not None else ""
    return str(name).partition(".")[0]


def _final(error: Exception) -> bool:
    if isinstance(error, (*_FINAL, *_MISTAKES, ValueError)):
        return True
    chain = list(_chain(error))
    if any(kind.__name__ in _CERTAIN for part in chain for kind in type(part).__mro__):
        return True
    statuses = {_status(part) for part in chain}
    client_errors = set(range(400, 500)) - _WAIT_A_MOMENT
    return not statuses.isdisjoint(client_errors | {_REFUSED_BY_CLIENT})


def refusal(error: Exception) -> str | None:
    """The code by which the storage refuses the credentials; None for other errors."""
    words = " ".join(str(part) for part in _chain(error))
    return next((code for code in _CREDENTIALS if code in words), None)


def _status(error: BaseException) -> int | None:
    """The HTTP status in an error of botocore, oss2, aiohttp or gcsfs."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):
        return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) or None
    of_gcsfs = type(error).__module__.startswith("gcsfs.")
    status = getattr(error, "code" if of_gcsfs else "status", None)
    known = isinstance(status, int) and (status > 0 or status == _REFUSED_BY_CLIENT)
    return status if known else None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
