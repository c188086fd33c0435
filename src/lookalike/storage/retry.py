"""Asking again what may have been a bad moment, and saying why it failed in the end."""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from lookalike.errors import CredentialsError, LookalikeError, StorageError, UnavailableError
from lookalike.storage import clients, getting
from lookalike.storage.uri import is_remote, public

# What asking again does not change.
_FINAL = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
_WAIT_A_MOMENT = {408, 425, 429}

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


def retrying(action: Callable[[], T], uri: str, retries: int) -> T:
    """What `action` gives; more tries, with growing pauses, if it may succeed later.

    The pauses of a remote `uri` double from 0.2 s and are shortened by chance, so that many
    workers that failed together do not come back together.

    Args:
        action: what to do; called again as it is.
        uri: what it is about.
        retries: how many more tries; of a remote `uri` three times as many.

    Raises:
        CredentialsError: the storage refuses who asks, also with credentials read anew.
        UnavailableError: it failed too often, and so did all that was asked for meanwhile.
        StorageError: it failed for good, or too often.
    """
    tries = _Tries(uri, retries)
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


async def retrying_there(action: Callable[[], Awaitable[T]], uri: str, retries: int) -> T:
    """`retrying` for coroutines: what waits lets others work."""
    tries = _Tries(uri, retries)
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

    def __init__(self, uri: str, retries: int) -> None:
        self._uri = uri
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
                getting.forget()
            return 0.0
        if _final(error):
            # An answer too, if not the one that was hoped for.
            self.succeeded()
            raise StorageError(f"{public(self._uri)}: {cause(error)}") from None
        if self._left == 0:
            if len(_failing[self._kind]) >= _AWAY and self._kind not in _WEB:
                raise UnavailableError(
                    f"{public(self._uri)}: {cause(error)}, and the storage gives nothing else "
                    "either; go on when it is well again (a run with --resume)"
                ) from None
            raise StorageError(f"{public(self._uri)}: {cause(error)}") from None
        self._left -= 1
        _failing[self._kind].add(self._uri)
        pause = min(self._pause, _LONGEST_PAUSE)
        self._pause *= 2
        return pause * random.uniform(0.5, 1) if self._remote else pause


def cause(error: Exception) -> str:
    """Why, without the error's own words, which may quote a URL with its secrets."""
    if isinstance(error, FileNotFoundError):
        return "no such file or directory"
    if isinstance(error, PermissionError):
        return "permission denied"
    if isinstance(error, ValueError):
        return "not a path or URL that can be opened"
    status = next(filter(None, map(_status, _chain(error))), None)
    if status is not None:
        return f"the storage answers {status}"
    return (getattr(error, "strerror", None) or type(error).__name__).lower()


def _final(error: Exception) -> bool:
    if isinstance(error, (*_FINAL, ValueError)):
        return True
    statuses = [status for status in map(_status, _chain(error)) if status is not None]
    return any(400 <= status < 500 and status not in _WAIT_A_MOMENT for status in statuses)


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
    return status if isinstance(status, int) and status > 0 else None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
