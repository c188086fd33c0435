"""The HTTP service of a model: embeddings, search, changes of the index, health and figures."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic_core import to_json
from starlette.concurrency import run_in_threadpool

from lookalike.errors import DataError
from lookalike.index.decision import Answer
from lookalike.serving import inference_protocol, problems
from lookalike.serving.access import Access
from lookalike.serving.batcher import Batcher
from lookalike.serving.guard import Guard
from lookalike.serving.problems import Problem
from lookalike.serving.request_images import (
    AddRequest,
    EmbeddingsRequest,
    SearchRequest,
    described,
    read_request,
)
from lookalike.serving.request_metrics import CONTENT_TYPE, Measured, RequestMetrics
from lookalike.serving.served_index import ServedIndex
from lookalike.serving.served_network import Served, ServedNetwork
from lookalike.serving.service_limits import ServiceLimits

T = TypeVar("T")


@dataclass
class Service:
    """State that the routes share.

    Attributes:
        name: of the model, in requests and answers.
        created: seconds since 1970, of the model.
        index: None where none is served.
        calibrated: whether the model is.
    """

    name: str
    model: Served
    index: ServedIndex | None = None
    calibrated: bool = False
    limits: ServiceLimits = field(default_factory=ServiceLimits)
    created: int = 0
    version: str = "0"
    stopping: threading.Event = field(default_factory=threading.Event)
    started: bool = False

    def __post_init__(self) -> None:
        self.metrics = RequestMetrics(lambda: self.batcher.pending)
        self.batcher = Batcher(
            ServedNetwork(self.model, self.limits.max_pixels),
            threads=self.limits.threads,
            queue=self.limits.queue,
            observe=self.metrics.batch,
        )

    def check_ready(self) -> None:
        """Refuse a request before the start and after a stop was requested."""
        if not self.started or self.stopping.is_set():
            raise Problem(503, "the server is stopping", retry_after=1.0)

    def check_name(self, name: str | None) -> None:
        """Refuse a request for another model."""
        if name is not None and name != self.name:
            raise Problem(404, f"model {name[:80]!r} is not served here; this is {self.name!r}")

    async def vectors(self, contents: list[bytes]) -> np.ndarray:
        """Unit vectors (N, D) of images, in the time of a request."""
        return await self.timed(self.batcher.vectors(contents))

    async def timed(self, work: Awaitable[T]) -> T:
        """Await something for as long as a request may take.

        Raises:
            Problem: it takes longer.
        """
        try:
            async with asyncio.timeout(self.limits.seconds):
                return await work
        except TimeoutError:
            raise Problem(
                503, f"no answer in {self.limits.seconds:g} seconds", retry_after=1.0
            ) from None

    def served_index(self) -> ServedIndex:
        if self.index is None:
            raise Problem(404, "no index is served here; start lookalike serve with --index DIR")
        return self.index


def create_app(service: Service, access: Access) -> Guard:
    """The application, behind its guard; `service` starts and stops with it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.batcher.start()
        service.started = True
        yield
        await service.batcher.stop()

    app = FastAPI(
        title="lookalike",
        version=service.version,
        description="Vectors of images, and the images of an index that are most like them.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses={
            status: {
                "description": "A problem object (RFC 9457).",
                "content": {problems.MEDIA_TYPE: {"schema": {"type": "object"}}},
            }
            for status in ("4XX", "5XX")
        },
    )
    problems.install(app)
    _add_health(app, service)
    _add_models(app, service)
    _add_images(app, service)
    inference_protocol.add_routes(app, service)
    return Guard(Measured(app, service.metrics), access)


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/health/live")
    async def live() -> dict[str, str]:
        """The process answers."""
        return {"status": "live"}

    @app.get("/health/ready")
    async def ready() -> dict[str, str]:
        """Requests are accepted: from the start until a stop is requested."""
        service.check_ready()
        return {"status": "ready"}

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})


def _add_models(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The model that is served."""
        return {"object": "list", "data": [_described(service)]}


def _described(service: Service) -> dict[str, Any]:
    index = service.index
    return {
        "id": service.name,
        "object": "model",
        "created": service.created,
        "owned_by": "lookalike",
        "dimensions": service.model.embedding_dim,
        "fingerprint": service.model.fingerprint(),
        "calibrated": service.calibrated,
        "index": None if index is None else {"images": len(index.index)},
    }


def _add_images(app: FastAPI, service: Service) -> None:
    most = service.limits.max_images

    @app.post("/v1/embeddings", openapi_extra=described(EmbeddingsRequest))
    async def embeddings(request: Request) -> Response:
        """Vectors of images, of unit length: cosines are dot products."""
        asked, contents = await read_request(request, EmbeddingsRequest, most)
        service.check_name(asked.model)
        dim = service.model.embedding_dim
        if asked.dimensions is not None and asked.dimensions > dim:
            raise DataError(f"dimensions={asked.dimensions}: the model's vectors have {dim}")
        vectors = shortened(await service.vectors(contents), asked.dimensions)
        as_text = asked.encoding_format == "base64"
        data = [
            {"object": "embedding", "index": at, "embedding": encoded(one, as_text=as_text)}
            for at, one in enumerate(vectors)
        ]
        usage = {"prompt_tokens": 0, "total_tokens": 0, "images": len(contents)}
        answer = {"object": "list", "data": data, "model": service.name, "usage": usage}
        # An eighth of the time of `JSONResponse` for as many numbers.
        return Response(to_json(answer), media_type="application/json")

    @app.post("/v1/search", openapi_extra=described(SearchRequest))
    async def search(request: Request) -> JSONResponse:
        """The images of the index that are most like each image, best first."""
        index = service.served_index()
        asked, contents = await read_request(request, SearchRequest, most)
        service.check_name(asked.model)
        vectors = await service.vectors(contents)
        labels = [asked.label] if isinstance(asked.label, str) else asked.label
        call = partial(index.search, vectors, asked.k, labels, asked.threshold, asked.prior)
        found = await service.timed(run_in_threadpool(call))
        data = [answered(at, one) for at, one in enumerate(found.answers)]
        return JSONResponse(
            {
                "object": "list",
                "data": data,
                "model": service.name,
                "threshold": found.threshold,
                "prior": found.prior,
            }
        )

    @app.post("/v1/index", openapi_extra=described(AddRequest))
    async def add(request: Request) -> JSONResponse:
        """Add images to the index; an image with the same id is replaced."""
        index = service.served_index()
        index.check_writable()
        asked, contents = await read_request(request, AddRequest, most)
        service.check_name(asked.model)
        for name, values in (("ids", asked.ids), ("labels", asked.labels)):
            if values is not None and len(values) != len(contents):
                raise DataError(f"{len(contents)} images, but {len(values)} {name}")
        index.check_ids(asked.ids)
        vectors = await service.vectors(contents)
        # Not timed: a change is made whole, and its answer says so.
        added = await run_in_threadpool(partial(index.add, vectors, asked.ids, asked.labels))
        return JSONResponse({"added": added, "images": len(index.index)})

    @app.delete("/v1/index/{id:path}")
    async def remove(id: str) -> JSONResponse:
        """Remove an image from the index."""
        index = service.served_index()
        await run_in_threadpool(partial(index.remove, id))
        return JSONResponse({"removed": 1, "images": len(index.index)})


def shortened(vectors: np.ndarray, dimensions: int | None) -> np.ndarray:
    """The first numbers of vectors (N, D), scaled to unit length again.

    Raises:
        DataError: they are all zero in an image.
    """
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    cut = vectors[:, :dimensions]
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    if not lengths.all():
        raise DataError(f"dimensions={dimensions}: the first numbers of a vector are all zero")
    return cut / lengths


def encoded(vector: np.ndarray, *, as_text: bool) -> list[float] | str:
    """A vector as numbers, or as base64 of its float32, lowest byte first."""
    if as_text:
        return base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode()
    return vector.tolist()


def answered(number: int, answer: Answer) -> dict[str, Any]:
    """The neighbours of one query."""
    neighbours = [
        {
            "id": one.id,
            "cosine": one.cosine,
            "label": one.label,
            "same": one.same,
            "probability": one.probability,
            "verdict": one.decision or None,
        }
        for one in answer.neighbours
    ]
    return {"index": number, "known": answer.known, "neighbours": neighbours}
