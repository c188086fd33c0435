"""Asking again what may have been a bad moment, and saying why it failed in the end."""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from lookalike.errors import CredentialsError, LookalikeError, StorageError, UnavailableError
from lookalike.storage import clients, get_request
from lookalike.storage.download import TooLargeError, TransferError
from lookalike.storage.uri import is_remote, public

# What asking again does not change.
MISSING = "no such file or directory"
"""The reason of an error about a file that is not there."""

_FINAL = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
_WAIT_A_MOMENT = {408, 425, 429}
_MISTAKES = (TypeError, AttributeError, LookupError, NameError, NotImplementedError)
"""What a client raises that cannot do what it is asked to: no moment is better than another."""

_REFUSED_BY_CLIENT = -1  # oss2's status of what it does not send

# The codes with which S3 and OSS refuse whoever asks, whatever is asked for.
_CREDENTIALS = (
    "ExpiredToken", "SecurityTokenExpired", "InvalidSecurityToken", "InvalidToken",
    "TokenRefreshRequired", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed",
)  # fmt: skip

_FIRST_PAUSE = {False: 0.05, True: 0.2}
_LONGEST_PAUSE = 10.0
_REMOTE_FACTOR = 3  # a store's bad moments last longer than a disk's

_AWAY = 5  # so many that fail, without one answer to anything in between, are not to blame
_WEB = ("http", "https")  # many servers, each well or not on its own
_failing: defaultdict[str, set[str]] = defaultdict(set)
"""By scheme: what failed since there was an answer to anything."""

T = TypeVar("T")


def retrying(action: Callable[[], T], uri: str, retries: int, seconds: float | None = None) -> T:
    """What `action` gives; more tries, with growing pauses, if it may succeed later.

    The pauses of a remote `uri` double from 0.2 s and are shortened by chance, so that many
    workers that failed together do not come back together.

    Args:
        action: what to do; called again as it is.
        uri: what it is about.
        retries: how many more tries; of a remote `uri` three times as many.
        seconds: in which no more tries begin; None for any time.

    Raises:
        CredentialsError: the storage refuses who asks, also with credentials read anew.
        UnavailableError: it failed too often, and so did all that was asked for meanwhile.
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
    """`retrying` for coroutines: what waits lets others work."""
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
    """What has been tried of one action, and whether to try again."""

    def __init__(self, uri: str, retries: int, seconds: float | None) -> None:
        self._uri = uri
        self._seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds
        self._remote = is_remote(uri)
        self._left = retries * (_REMOTE_FACTOR if self._remote else 1)
        self._pause = _FIRST_PAUSE[self._remote]
        self._renewed = False
        self._credentials = 0
        self._kind = uri.partition("://")[0] if self._remote else ""

    def begin(self) -> None:
        """Take note of the credentials that the next try is made with."""
        self._credentials = clients.credentials_number()

    def succeeded(self) -> None:
        """Take note that the storage answers."""
        _failing[self._kind].clear()

    def pause_after(self, error: Exception) -> float:
        """How many seconds to wait before the next try; raises what ends the trying."""
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
                    "them in the environment or the vendor's file, then go on with --resume"
                ) from None
            self._renewed = True
            # Of many requests that are refused together, the first reads them anew.
            if clients.forget_credentials(self._uri, self._credentials):
                get_request.forget()
            return 0.0
        if _final(error):
            # An answer too, if not the one that was hoped for.
            self.succeeded()
            raise StorageError(f"{public(self._uri)}: {cause(error)}") from None
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
            if len(_failing[self._kind]) >= _AWAY and self._kind not in _WEB:
                raise UnavailableError(
                    f"{public(self._uri)}: {reason}, and the storage gives nothing else "
                    "either; go on when it can be reached again (a run with --resume)"
                ) from None
            raise StorageError(f"{public(self._uri)}: {reason}") from None
        self._left -= 1
        _failing[self._kind].add(self._uri)
        self._pause *= 2
        return pause


def cause(error: Exception) -> str:
    """Why, without the error's own words, which may quote a URL with its secrets."""
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
"""Errors of the clients that asking again does not change, by the name of their class."""


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
    statuses = [status for status in map(_status, chain) if status is not None]
    return any(
        (400 <= status < 500 and status not in _WAIT_A_MOMENT) or status == _REFUSED_BY_CLIENT
        for status in statuses
    )


def refusal(error: Exception) -> str | None:
    """The code by which the storage refuses the credentials, if that is what happened."""
    words = " ".join(str(part) for part in _chain(error))
    return next((code for code in _CREDENTIALS if code in words), None)


def _status(error: BaseException) -> int | None:
    """The status of the HTTP answer that botocore, oss2 or aiohttp report."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):
        return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) or None
    status = getattr(error, "status", None)
    return status if isinstance(status, int) and (status > 0 or _refuses(error)) else None


def _refuses(error: BaseException) -> bool:
    return getattr(error, "status", None) == _REFUSED_BY_CLIENT


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
