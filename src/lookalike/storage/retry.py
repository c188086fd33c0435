"""Asking again what may have been a bad moment, and saying why it failed in the end."""

import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from lookalike.errors import CredentialsError, LookalikeError, StorageError
from lookalike.storage import getting
from lookalike.storage.clients import forget_credentials
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
        StorageError: it failed for good, or too often.
    """
    remote = is_remote(uri)
    retries *= _REMOTE_FACTOR if remote else 1
    renewed = False
    attempt = 0
    while True:
        try:
            return action()
        except LookalikeError:
            raise
        except Exception as error:
            # A store's client raises what it likes, not only OSError; on this machine anything
            # else is our own mistake (but ValueError: a NUL in a path, a broken URL).
            if not isinstance(error, OSError | ValueError) and not remote:
                raise
            if remote and (code := _refusal(error)):
                if renewed:
                    raise CredentialsError(
                        f"{public(uri)}: the storage refuses the credentials ({code}); renew them "
                        "in the environment or the vendor's file, then go on with --resume"
                    ) from None
                renewed = True
                forget_credentials(uri)
                getting.forget()
                continue
            if attempt == retries or _final(error):
                raise StorageError(f"{public(uri)}: {cause(error)}") from None
            pause = min(_FIRST_PAUSE[remote] * 2**attempt, _LONGEST_PAUSE)
            time.sleep(pause * random.uniform(0.5, 1) if remote else pause)
            attempt += 1


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


def _refusal(error: Exception) -> str | None:
    """The code by which the storage refuses the credentials, if that is what happened."""
    words = " ".join(str(part) for part in _chain(error))
    return next((code for code in _CREDENTIALS if code in words), None)


def _status(error: BaseException) -> int | None:
    """The status of the HTTP answer that botocore, oss2, aiohttp or urllib3 report."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):
        return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) or None
    status = getattr(error, "status", None)
    return status if isinstance(status, int) and status > 0 else None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
