"""Bounds of the requests to the service, and of their queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from lookalike.errors import ConfigError, check_integer, check_number


class LimitKeywords(TypedDict, total=False):
    """The fields of `ServiceLimits` as keywords of `serve`."""

    threads: int
    queue: int
    max_images: int
    max_body: int
    max_pixels: int
    seconds: float


@dataclass(frozen=True)
class ServiceLimits:
    """Bounds of a request and of the queue.

    Attributes:
        threads: that decode images.
        queue: images of all requests that wait or are computed; more are answered with 429.
        max_images: of a request.
        max_body: bytes of a request.
        max_pixels: of an image; more are refused from its header, before it is decoded.
        seconds: for a request's body to arrive, and again for its answer.

    Raises:
        ConfigError: a bound is below 1, `seconds` is not above 0, or the queue holds less than a
            request.
    """

    threads: int = 4
    queue: int = 256
    max_images: int = 64
    max_body: int = 64 * 2**20
    max_pixels: int = 50_000_000
    seconds: float = 30.0

    def __post_init__(self) -> None:
        for name in ("threads", "queue", "max_images", "max_body", "max_pixels"):
            check_integer(name, getattr(self, name), 1)
        check_number("seconds", self.seconds, 0, above=True)
        if self.max_images > self.queue:
            raise ConfigError(
                f"a request may have {self.max_images:,} images, but the queue holds "
                f"{self.queue:,}; raise --queue, or lower --max-images"
            )
