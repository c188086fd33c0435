"""Requests with images, in each of their forms: JSON, multipart, or the bytes of one image."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from lookalike.errors import DataError
from lookalike.serving.problems import Problem


def _no_truth_value(value: object) -> object:
    if isinstance(value, bool):
        raise PydanticCustomError("number", "Input should be a number, not true or false")
    return value


_Integer = Annotated[int, BeforeValidator(_no_truth_value)]
_Float = Annotated[float, BeforeValidator(_no_truth_value)]


class ImageObject(BaseModel):
    """One image: `image` is base64 of an image file, or a data URI of it."""

    model_config = ConfigDict(extra="forbid")
    image: str


class ImageRequest(BaseModel):
    """Images, each a data URI or {"image": base64}; addresses are not fetched."""

    model_config = ConfigDict(extra="forbid")
    input: str | ImageObject | list[str | ImageObject]
    model: str | None = None
    user: str | None = Field(None, description="accepted for other clients, and not used")
    modality: Literal["image"] | None = None


class EmbeddingsRequest(ImageRequest):
    """Vectors of images."""

    dimensions: _Integer | None = Field(
        None, ge=1, description="the first numbers only, scaled to unit length again"
    )
    encoding_format: Literal["float", "base64"] = "float"


class SearchRequest(ImageRequest):
    """The images of the index that are most like each image."""

    k: _Integer = Field(10, ge=1, le=1000, description="neighbours of each image")
    label: str | list[str] | None = Field(None, description="only images with one of these labels")
    threshold: _Float | None = Field(None, ge=-1, le=1, description="least cosine of a neighbour")
    prior: _Float | None = Field(
        None, gt=0, lt=1, description="share of same pairs that the probabilities assume"
    )


class AddRequest(ImageRequest):
    """Images for the index; one that has an id already is replaced."""

    ids: list[str] = Field(min_length=1, description="one for each image")
    labels: list[str | None] | None = Field(None, description="one for each image")


R = TypeVar("R", bound=ImageRequest)

_FORM = "multipart/form-data"
_LARGE = 2**18  # bytes of JSON, which is read in less than a millisecond below it
_LISTS = ("label", "ids", "labels")  # fields that may be given several times


async def read_request(request: Request, kind: type[R], most: int) -> tuple[R, list[bytes]]:
    """The fields of a request and the bytes of its images.

    JSON holds both. Parts of multipart that have a file name are images, the others fields. Beside
    the bytes of one image (`image/*`), fields stand in the query string.

    Args:
        request: to be read.
        kind: of its fields.
        most: images.

    Raises:
        Problem: another content type, too many images, or a broken form.
        RequestValidationError: a field is wrong.
        DataError: an image is no base64.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media in ("application/json", ""):
        body = await request.body()
        if len(body) < _LARGE:  # a change of threads would take as long
            fields, contents = _from_json(body, kind, most)
        else:
            fields, contents = await run_in_threadpool(_from_json, body, kind, most)
    elif media.startswith("image/") or media == "application/octet-stream":
        contents = [await request.body()]
        fields = _fields(kind, _several(request.query_params.multi_items()))
    elif media == _FORM:
        async with request.form(max_files=most, max_fields=10 * most + 10) as form:
            items = form.multi_items()
            contents = [await part.read() for _, part in items if isinstance(part, UploadFile)]
            fields = _fields(
                kind, _several([(name, text) for name, text in items if isinstance(text, str)])
            )
    else:
        raise Problem(
            415,
            f"Content-Type {media[:80]!r} is not one of application/json, {_FORM}, image/*",
        )
    if not contents:
        raise Problem(422, "no image in the request")
    return fields, contents


def described(kind: type[ImageRequest]) -> dict[str, Any]:
    """The forms of a request for OpenAPI."""
    schema = kind.model_json_schema(ref_template=f"#/components/schemas/{kind.__name__}-{{model}}")
    definitions = schema.pop("$defs", {})
    image = definitions.get("ImageObject", {})
    text = {"type": "string", "minLength": 1}
    item = {"anyOf": [text, {**image, "properties": {"image": text}}]}
    schema["properties"]["input"] = {
        "anyOf": [*item["anyOf"], {"type": "array", "items": item, "minItems": 1}]
    }
    binary = {"schema": {"type": "string", "format": "binary"}}
    form = {"type": "object", "properties": {"image": {"type": "array", "items": binary["schema"]}}}
    content = {"application/json": {"schema": schema}, _FORM: {"schema": form}, "image/*": binary}
    return {"requestBody": {"required": True, "content": content}}


def decoded(text: str, number: int) -> bytes:
    """The bytes of base64, or of a data URI.

    Raises:
        DataError: it is neither.
    """
    place = f"image {number}"
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise DataError(f"{place}: a data URI of an image is data:image/...;base64,...")
    elif "://" in text[:16]:
        raise DataError(
            f"{place}: is an address, and addresses are not fetched; send the image itself, as "
            "data:image/jpeg;base64,..."
        )
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise DataError(f"{place}: is neither a data URI nor base64 of an image") from None


def _from_json(body: bytes, kind: type[R], most: int) -> tuple[R, list[bytes]]:
    try:
        fields = kind.model_validate_json(body)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_input=False)) from None
    given = fields.input if isinstance(fields.input, list) else [fields.input]
    if len(given) > most:
        raise Problem(413, f"{len(given):,} images in a request, of at most {most:,}")
    contents = [
        decoded(one if isinstance(one, str) else one.image, number)
        for number, one in enumerate(given)
    ]
    return fields.model_copy(update={"input": ""}), contents  # held once


def _fields(kind: type[R], given: Mapping[str, Any]) -> R:
    try:
        return kind.model_validate({**given, "input": ""})
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_input=False)) from None


def _several(items: list[tuple[str, str]]) -> dict[str, Any]:
    """Fields by name; those that may be lists are.

    Raises:
        RequestValidationError: another one is given several times.
    """
    found: dict[str, Any] = {}
    for name, value in items:
        if name in _LISTS:
            found.setdefault(name, []).append(value)
        elif name in found:
            fault = {"type": "several", "loc": (name,), "msg": "is given several times"}
            raise RequestValidationError([fault])
        else:
            found[name] = value
    return found
