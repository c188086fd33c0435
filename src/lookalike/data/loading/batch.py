"""What all loaders yield and share."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from lookalike.data.decoding.decode import BadImage
from lookalike.data.image_size import ImageSize, height_width
from lookalike.data.loading.buffer_pool import Blocks
from lookalike.data.loading.image_source import PLAIN, Rows, Source, Tickets
from lookalike.data.loading.prefetch import Job, in_order
from lookalike.data.loading.read_ahead import Ticket
from lookalike.data.record import Record
from lookalike.errors import ConfigError
from lookalike.storage import public
from lookalike.storage.retry import MISSING

AHEAD = 3
"""Batches that are made before their turn."""

_BLOCKS = Blocks()

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """b images.

    Attributes:
        images: (b, 3, S, S) uint8, channels last; pinned where it is to go to a CUDA device.
        classes: (b,) int64.
        rows: (b,) int64, indices of the records that these images are.
    """

    images: Tensor
    classes: Tensor
    rows: Tensor


class Waiting(Protocol):
    """A loader that counts how long its consumer waits."""

    wait_seconds: float


def timed(loader: Waiting, batches: Generator[Batch, None, None]) -> Generator[Batch, None, None]:
    """`batches` that have images, with the time they take added to `loader.wait_seconds`."""
    try:
        while True:
            began = perf_counter()
            batch = next(batches, None)
            loader.wait_seconds += perf_counter() - began
            if batch is None:
                return
            if len(batch.rows):
                yield batch
            del batch  # not kept while the next is waited for
    finally:
        batches.close()


def read_twice(
    record: Record, use: Callable[[bytes], T], source: Source = PLAIN, ticket: Ticket | None = None
) -> T:
    """`use` of the record's bytes; again, with fresh ones, if they turn out to be no image.

    A file server under load may hand out half a file.
    """
    try:
        return use(source.read(record, ticket))
    except BadImage:
        return use(source.read(record, fresh=True))


class Asking(Protocol):
    """A job that waits for bytes; None where it waits for none."""

    tickets: Tickets | None


def made_ahead(
    plans: Iterator[Rows],
    make: Callable[[Rows, Tickets | None], Job[T]],
    *,
    source: Source,
    record_of: Callable[[int], Record | None],
    threads: int,
    ahead: int = AHEAD,
) -> Generator[T, None, None]:
    """What the jobs made of `plans` result in, in order, with their images asked for in time.

    Args:
        plans: rows of each job.
        make: the job of these rows and the tickets of their images.
        source: of the images' bytes.
        record_of: the record of a row; None where it will not be read.
        threads: that read and decode; with 0 the consumer's does, and nothing is done ahead.
        ahead: how many jobs are started before their turn, at most.
    """
    if threads == 0:
        yield from in_order((make(rows, None) for rows in plans), 0, ahead)
        return
    with closing(source.ahead(plans, record_of)) as asked:
        jobs = (make(rows, tickets) for rows, tickets in asked)
        yield from in_order(jobs, threads, ahead, ticket_of)


def ticket_of(job: Asking, piece: int) -> Ticket | None:
    """What this piece waits for."""
    return None if job.tickets is None else job.tickets[piece]


def cause(error: Exception, record: Record) -> str:
    """The reason of `error` without the URI, with which the storage's messages begin.

    With a hint where a file is missing and its path is one of Windows.
    """
    reason = str(error).removeprefix(f"{public(record.uri)}: ")
    if reason == MISSING and "\\" in record.uri and os.sep == "/":
        reason += "; if \\ separates folders in it, as on Windows, write / in the list"
    return reason


def empty_images(count: int, size: ImageSize, device: torch.device) -> Tensor:
    """Room for `count` pictures on their way to `device`: (count, 3, height, width) uint8."""
    shape = (count, *height_width(size), 3)
    # A tensor born in the consumer's inference mode could not be filled by other threads.
    with torch.inference_mode(False):
        if device.type == "cuda":  # torch itself keeps pinned memory
            images = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        else:
            images = _BLOCKS.empty(shape, torch.uint8)
        return images.permute(0, 3, 1, 2)


def check_at_least(**numbers: tuple[int, int]) -> None:
    """Raise a ConfigError unless each value, given as name=(value, least), is at least that."""
    for name, (value, least) in numbers.items():
        if value < least:
            raise ConfigError(f"{name}={value} must be at least {least}")
