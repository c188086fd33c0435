"""Work ahead in threads: the batches that come next, each made of many small pieces of work.

Threads, not processes: decoding and resizing leave the GIL, so pixels are never copied between
processes and nothing is pickled. They are daemons, and a finalizer stops them when the iterator
is closed, forgotten or the program ends: none outlives its use, none keeps a program from ending.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

import torch

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")

# How long a closing iterator waits for pieces that are being worked on (a slow remote read).
_PATIENCE_SECONDS = 2.0


class Job(Protocol[T_co]):
    """One thing to be made from `size` independent pieces of work."""

    size: int

    def run(self, piece: int) -> None:
        """Do piece number `piece`; called once for each, from any thread, in any order."""

    def result(self) -> T_co:
        """The thing; called when all pieces are done, in the consumer's thread."""


class _Flight(Generic[T]):
    """A job that is being worked on."""

    def __init__(self, job: Job[T]) -> None:
        self.job = job
        self.over = threading.Event()  # all is done, or a piece has failed
        self.error: BaseException | None = None
        self._left = job.size
        self._lock = threading.Lock()

    def work(self, piece: int) -> None:
        try:
            if self.error is None:
                self.job.run(piece)
        except BaseException as error:  # handed to the consumer, who raises it
            self.error = error
            self.over.set()
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self.over.set()

    def landed(self) -> T:
        self.over.wait()
        if self.error is not None:
            raise self.error
        return self.job.result()


Tasks = SimpleQueue[tuple[_Flight[Any], int] | None]


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
            flight, piece = task
            flight.work(piece)
            del flight
        del task  # a waiting thread must not keep a batch alive


def _stop(tasks: Tasks, stopped: threading.Event, workers: list[threading.Thread]) -> None:
    stopped.set()
    for _ in workers:
        tasks.put(None)
    for worker in workers:
        if worker is not threading.current_thread():  # the garbage collector runs anywhere
            worker.join(_PATIENCE_SECONDS)


class Awaited(Protocol):
    """Something that a piece of work needs, and that is not there yet."""

    def when_over(self, then: Callable[[], None]) -> None:
        """Have `then` called, from any thread, as soon as it is there."""


def in_order(
    jobs: Iterator[Job[T]],
    threads: int,
    ahead: int,
    awaited: Callable[[Any, int], Awaited | None] = lambda job, piece: None,
) -> Generator[T, None, None]:
    """The jobs' results, in the order of the jobs, while later ones are worked on.

    What a piece of a job raises is raised here, when that job's turn comes.

    Args:
        jobs: what to do; each is asked for only when it can be started.
        threads: how many work; with 0 the calling thread does, and nothing is done ahead.
        ahead: how many jobs are started before their turn, at most.
        awaited: what a piece of a job must wait for; no thread waits with it. None for nothing.
            Not asked with 0 threads.
    """
    if threads == 0:
        for now in jobs:
            for piece in range(now.size):
                now.run(piece)
            yield now.result()
        return
    pool = _Pool(threads)
    flights: deque[_Flight[T]] = deque()
    try:
        while True:
            while len(flights) <= ahead and (job := next(jobs, None)) is not None:
                flights.append(_Flight(job))
                for piece in range(job.size):
                    put = partial(pool.tasks.put, (flights[-1], piece))
                    need = awaited(job, piece)
                    if need is None:
                        put()
                    else:
                        need.when_over(put)
                    del need, put
                del job
            if not flights:
                return
            yield flights.popleft().landed()  # no name is bound: the consumer alone owns it
    finally:
        pool.close()
