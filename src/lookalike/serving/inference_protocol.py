"""The Open Inference Protocol, version 2, in JSON: encoded images in, vectors out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from lookalike.errors import DataError
from lookalike.serving.problems import Problem
from lookalike.serving.request_images import decoded

if TYPE_CHECKING:
    from lookalike.serving.service import Service


class InferenceInput(BaseModel):
    """Images: base64 of N files, `shape` [N] or [N, 1]."""

    name: str
    shape: list[int] = Field(min_length=1, max_length=2)
    datatype: Literal["BYTES"]
    data: list[str] = Field(min_length=1)


class InferenceRequest(BaseModel):
    """One input with images."""

    id: str | None = None
    inputs: list[InferenceInput] = Field(min_length=1, max_length=1)


def add_routes(app: FastAPI, service: Service) -> None:
    """Add the protocol's routes."""

    @app.get("/v2")
    async def server() -> dict[str, Any]:
        """Name and version of the server."""
        return {"name": "lookalike", "version": app.version, "extensions": []}

    @app.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        """The process answers."""
        return {"live": True}

    @app.get("/v2/health/ready")
    async def ready() -> dict[str, bool]:
        """Requests are accepted."""
        service.check_ready()
        return {"ready": True}

    @app.get("/v2/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        """Inputs and outputs of the model."""
        service.check_name(name)
        return {
            "name": service.name,
            "versions": [],
            "platform": "lookalike",
            "inputs": [{"name": "images", "datatype": "BYTES", "shape": [-1]}],
            "outputs": [
                {
                    "name": "embedding",
                    "datatype": "FP32",
                    "shape": [-1, service.model.embedding_dim],
                }
            ],
        }

    @app.get("/v2/models/{name}/ready")
    async def model_ready(name: str) -> dict[str, Any]:
        """The model accepts requests."""
        service.check_name(name)
        service.check_ready()
        return {"name": service.name, "ready": True}

    @app.post("/v2/models/{name}/infer")
    async def infer(name: str, request: InferenceRequest) -> dict[str, Any]:
        """Vectors of images."""
        service.check_name(name)
        given = request.inputs[0]
        if math.prod(given.shape) != len(given.data):
            raise DataError(f"shape {given.shape}, but {len(given.data):,} images in data")
        most = service.limits.max_images
        if len(given.data) > most:
            raise Problem(413, f"{len(given.data):,} images in a request, of at most {most:,}")
        contents = await run_in_threadpool(
            lambda: [decoded(text, number) for number, text in enumerate(given.data)]
        )
        vectors = await service.vectors(contents)
        output = {
            "name": "embedding",
            "datatype": "FP32",
            "shape": list(vectors.shape),
            "data": vectors.ravel().tolist(),
        }
        answer: dict[str, Any] = {"model_name": service.name, "outputs": [output]}
        return answer if request.id is None else {**answer, "id": request.id}
