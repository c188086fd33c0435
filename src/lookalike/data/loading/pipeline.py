"""Images fetched, decoded and delivered in order, ahead of their consumer.

jobs -> remote bytes requested (one event loop) -> pieces decoded (threads) -> results in order

Threads, not processes: decoding and resizing release the GIL, so pixels are never copied between
processes and nothing is pickled. They are daemons, and a finalizer stops them when the iterator
is closed or collected or the program ends.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import torch

from lookalike.data.loading.image_source import Source
from lookalike.data.loading.read_ahead import PendingBytes, ReadAhead
from lookalike.data.record import Record

AHEAD = 3
"""Jobs that are started before their turn."""

# A closing iterator waits so long for pieces in progress (a slow remote read).
_PATIENCE_SECONDS = 2.0

T = TypeVar("T")

Work = tuple[Callable[[int, PendingBytes | None], None], Callable[[], T]]
"""Makes piece i, once, in any thread and order, of its bytes where they were fetched ahead; and
returns the result once all pieces are made, in the consumer's thread."""


@dataclass(frozen=True)
class Job(Generic[T]):
    """One result of independent pieces.

    Attributes:
        records: to read for each piece; None where nothing will be read.
        start: called when work begins, which may be long after the records are fetched.
    """

    records: Sequence[Record | None]
    start: Callable[[], Work[T]]


def pipeline(
    jobs: Iterator[Job[T]], *, source: Source, ahead: int = AHEAD
) -> Generator[T, None, None]:
    """The jobs' results, in order, while later ones are worked on.

    An exception in a piece is raised here when the turn of its job comes.

    A job is asked for only when it can be started, at most `ahead` of them before their turn, or
    its images can be fetched. With 0 threads nothing is done ahead.
    """
    if source.threads == 0:
        yield from map(_made_here, jobs)
        return
    pool = _Pool(source.threads)
    fetched = _fetch_ahead(jobs, source)
    running: deque[_Running[T]] = deque()
    try:
        while True:
            while len(running) <= ahead and (found := next(fetched)) is not None:
                running.append(_Running(*found, pool.tasks))
                del found
            if not running:
                return
            yield running.popleft().result()  # no name is bound: the consumer alone owns it
    finally:
        fetched.close()
        pool.close()


def _made_here(job: Job[T]) -> T:
    run, result = job.start()
    for piece in range(len(job.records)):
        run(piece, None)
    return result()


Pending = list[PendingBytes | None]


def _fetch_ahead(
    jobs: Iterator[Job[T]], source: Source
) -> Generator[tuple[Job[T], Pending | None] | None, None, None]:
    """The jobs, with the bytes requested for each of their pieces; then None.

    To be closed: closing it cancels what is in flight.
    """
    requests: ReadAhead | None = None
    asked: deque[tuple[Job[T], Pending | None]] = deque()
    pieces = 0
    try:
        while True:
            # Local images cost no more than one look at each: no job is asked for before its turn.
            while not asked or (requests is not None and pieces < 2 * source.requests):
                job = next(jobs, None)
                if job is None:
                    break
                pending: Pending | None = None
                remote = [
                    (piece, record)
                    for piece, record in enumerate(job.records)
                    if record is not None and source.is_elsewhere(record)
                ]
                if remote:
                    requests = requests or ReadAhead(source.requests, limits=source.limits)
                    pending = [None] * len(job.records)
                    for piece, record in remote:
                        pending[piece] = requests.fetch(record)
                asked.append((job, pending))
                pieces += len(job.records)
            if asked:
                pieces -= len(asked[0][0].records)
            yield asked.popleft() if asked else None
    finally:
        if requests is not None:
            requests.close()


class _Running(Generic[T]):
    """A job whose pieces are being worked on."""

    def __init__(self, job: Job[T], pending: Pending | None, tasks: Tasks) -> None:
        self._run, self._result = job.start()
        self._pending = pending
        self._over = threading.Event()  # all is done, or a piece has failed
        self._error: BaseException | None = None
        self._left = len(job.records)
        self._lock = threading.Lock()
        for piece in range(len(job.records)):
            needed = None if pending is None else pending[piece]
            if needed is None:
                tasks.put((self, piece))
            else:  # no thread waits for it
                needed.add_done_callback(lambda _, piece=piece: tasks.put((self, piece)))  # type: ignore[misc]

    def work(self, piece: int) -> None:
        try:
            if self._error is None:
                needed = None
                if self._pending is not None:  # the bytes go as soon as they are decoded
                    needed, self._pending[piece] = self._pending[piece], None
                self._run(piece, needed)
                if needed is not None:
                    needed.release()
        except BaseException as error:  # raised in the consumer's thread
            self._error = error
            self._over.set()
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self._over.set()

    def result(self) -> T:
        self._over.wait()
        if self._error is not None:
            raise self._error
        return self._result()


Tasks = SimpleQueue[tuple[_Running[Any], int] | None]


class _Pool:
    def __init__(self, threads: int) -> None:
        self.tasks: Tasks = SimpleQueue()
        stopped = threading.Event()
        started = threading.Semaphore(0)
        workers = [
            threading.Thread(
                target=_work,
                args=(self.tasks, stopped, started),
                name=f"lookalike-data-{number}",
                daemon=True,
            )
            for number in range(threads)
        ]
        # Each worker computes alone, or they would fight over the cores. torch.set_num_threads
        # holds for the calling thread, but also for threads that begin later: so it is set back
        # when all have done it.
        ours = torch.get_num_threads()
        for worker in workers:
            worker.start()
        for _ in workers:
            started.acquire()
        torch.set_num_threads(ours)
        # At exit too, before Python begins to fall apart under running threads.
        self.close = weakref.finalize(self, _stop, self.tasks, stopped, workers)


def _work(tasks: Tasks, stopped: threading.Event, started: threading.Semaphore) -> None:
    torch.get_num_threads()  # or the thread's first computation would undo the next line
    torch.set_num_threads(1)
    started.release()
    while (task := tasks.get()) is not None:
        if not stopped.is_set():
            running, piece = task
            running.work(piece)
            del running
        del task  # a waiting thread must not keep a batch alive


def _stop(tasks: Tasks, stopped: threading.Event, workers: list[threading.Thread]) -> None:
    stopped.set()
    for _ in workers:
        tasks.put(None)
    end = time.monotonic() + _PATIENCE_SECONDS  # of all together
    for worker in workers:
        if worker is not threading.current_thread():  # the garbage collector runs anywhere
            worker.join(max(0.0, end - time.monotonic()))
