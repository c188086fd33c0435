"""Interface of the engines; states and logs of jobs."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, TypeVar

from lookalike.errors import CredentialsError, LookalikeError, UnavailableError, one_line
from lookalike.log import logger

T = TypeVar("T")


class JobState(StrEnum):
    """State of a job, by the same names on every engine."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def is_final(self) -> bool:
        """True if it does not change any more."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.STOPPED)


@dataclass(frozen=True)
class JobStatus:
    """A job of an engine.

    Attributes:
        reason: the engine's own words for the state.
        created: when it was sent, as the engine writes it.
    """

    id: str
    name: str
    state: JobState
    reason: str = ""
    created: str = ""


class JobError(LookalikeError):
    """An engine refuses a request, or a job failed."""


class Engine(Protocol):
    """An engine that runs jobs; each call raises LookalikeErrors."""

    def send(self, request: Any) -> str:
        """Send what `render` gave; the id of the job."""
        ...

    def status(self, job: str) -> JobStatus:
        """The state of a job now."""
        ...

    def new_log(self, job: str) -> Iterable[str]:
        """Lines of its log since the last call."""
        ...

    def stop(self, job: str) -> None:
        """Ask a job to stop; training saves a checkpoint."""
        ...

    def jobs(self) -> list[JobStatus]:
        """Jobs that lookalike sent, the newest first."""
        ...


def follow(
    engine: Engine,
    job: str,
    write: Callable[[str], None],
    *,
    pause: float = 5.0,
    logs: bool = True,
) -> JobStatus:
    """Write the log and the states of a job until it ends.

    Raises:
        JobError: it failed or was stopped.
    """
    state = None
    try:
        while True:
            found = engine.status(job)
            if found.state != state:
                logger.info("%s: %s%s", job, found.state, found.reason and f" ({found.reason})")
                state = found.state
            if logs and state is not JobState.QUEUED:
                for line in engine.new_log(job):
                    write(line)
            if found.state.is_final:
                break
            time.sleep(pause)
    except KeyboardInterrupt:
        logger.info("%s: goes on; `lookalike jobs %s --on ... --stop` stops it", job, job)
        raise
    if found.state is not JobState.SUCCEEDED:
        raise JobError(f"{job}: {found.state}{found.reason and f': {found.reason}'}")
    return found


@dataclass(frozen=True)
class ServiceAnswer:
    """The error of a service: HTTP status (0 for none), its code, and its words."""

    status: int
    code: str
    words: str


_EXPIRED = ("expired", "invalidsecuritytoken", "invalidaccesskey", "signaturedoesnotmatch")
_THROTTLED = ("throttl", "toomanyrequests", "flowcontrol")
_QUOTA = ("quota", "insufficient", "exceeded", "outofstock")


def calling(
    action: Callable[[], T],
    what: str,
    answer_of: Callable[[Exception], ServiceAnswer | None],
    *,
    credentials: str,
    tries: int = 5,
    first_pause: float = 1.0,
    after_doubt: Callable[[], T | None] = lambda: None,
) -> T:
    """The result of a request to a service, sent again while its error may pass.

    Args:
        what: place of the error in its message.
        answer_of: the service's answer in an exception; None for a mistake of ours.
        credentials: where they come from, for the message about refused ones.
        tries: in all.
        first_pause: seconds; they double, with jitter.
        after_doubt: called where a request may have been carried out though it failed; its
            result, if it is not None, counts.

    Raises:
        CredentialsError: they are refused.
        UnavailableError: the service did not answer well in all tries.
        JobError: the request is refused.
    """
    for number in range(1, tries + 1):
        try:
            return action()
        except Exception as error:
            answer = answer_of(error)
            if answer is None:
                raise
        if not _may_pass(answer) or number == tries:
            raise _refused(answer, what, credentials, number)
        time.sleep(first_pause * 2 ** (number - 1) * random.uniform(0.5, 1))
        if answer.status == 0 or answer.status >= 500:
            found = after_doubt()
            if found is not None:
                return found
    raise AssertionError("unreachable")


def _has(answer: ServiceAnswer, parts: Iterable[str]) -> bool:
    return any(part in answer.code.lower().replace(".", "") for part in parts)


def _may_pass(answer: ServiceAnswer) -> bool:
    if _has(answer, _EXPIRED):
        return False
    return answer.status in (0, 408, 429) or answer.status >= 500 or _has(answer, _THROTTLED)


def _refused(answer: ServiceAnswer, what: str, credentials: str, tries: int) -> LookalikeError:
    words = one_line(Exception(answer.words), 300)
    reason = f"{answer.code}: {words}" if answer.code and answer.code not in words else words
    if answer.status == 401 or _has(answer, _EXPIRED):
        return CredentialsError(
            f"{what}: the credentials are refused ({reason}); renew {credentials}"
        )
    if _may_pass(answer):
        return UnavailableError(
            f"{what}: no good answer in {tries} tries ({reason or 'none'}); try again later"
        )
    if answer.status == 404:
        return JobError(f"{what}: not found ({reason}); `lookalike jobs` lists what is there")
    if _has(answer, _QUOTA) or "quota" in words.lower():
        return JobError(
            f"{what}: the quota does not suffice ({reason}); ask for less (--nodes, --gpus, "
            "--machine), stop another job, or wait"
        )
    return JobError(f"{what}: refused ({reason})")
