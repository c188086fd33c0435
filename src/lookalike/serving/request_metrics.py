"""Figures of the service for Prometheus: requests, latencies, batches, queue."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_TYPE = CONTENT_TYPE_LATEST
_BATCHES = (1, 2, 4, 8, 16, 32, 64)
_METHODS = ("GET", "POST", "DELETE")


class RequestMetrics:
    """The figures of one server, since it started."""

    def __init__(self, pending: Callable[[], int]) -> None:
        """Begin at zero; `pending` gives the images that wait or are computed."""
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "lookalike_requests", "Requests by route, method and status.",
            ["route", "method", "status"], registry=self._registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "lookalike_request_seconds", "From a request's head to the end of its response.",
            ["route"], registry=self._registry,
        )  # fmt: skip
        self._batches = Histogram(
            "lookalike_batch_images", "Images computed at a time.",
            buckets=_BATCHES, registry=self._registry,
        )  # fmt: skip
        gauge = Gauge(
            "lookalike_pending_images", "Images accepted and not yet answered.",
            registry=self._registry,
        )  # fmt: skip
        gauge.set_function(pending)

    def batch(self, size: int) -> None:
        self._batches.observe(size)

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def count(self, scope: Scope, status: int, seconds: float) -> None:
        """Count a request; routes and methods that there are not share one name."""
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)


class Measured:
    """ASGI middleware that counts requests."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, begun = 500, time.monotonic()

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, seen)
        finally:
            self.metrics.count(scope, status, time.monotonic() - begun)
