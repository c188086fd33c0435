"""`lookalike serve`: a model, and an index of its vectors, over HTTP."""

from __future__ import annotations

import difflib
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Unpack

from lookalike import __version__, log, storage
from lookalike.commands.keyword_groups import split_keywords
from lookalike.commands.models import calibration_of, check_model, load
from lookalike.data.inputs import place_of, places_of
from lookalike.errors import ConfigError, check_installed, check_number
from lookalike.exporting.exported import ExportedModel
from lookalike.index.index import Index
from lookalike.index.store_address import check_client, check_index_place, exists, is_store_address
from lookalike.log import logger
from lookalike.metrics.calibration import Calibration
from lookalike.model.embedder import Embedder
from lookalike.serving.access import Access, read_token
from lookalike.serving.listening import bind, check_port
from lookalike.serving.service_limits import LimitKeywords, ServiceLimits
from lookalike.storage import Place

if TYPE_CHECKING:
    from lookalike.serving.service import Service

_PACKAGES = ("fastapi", "uvicorn", "multipart", "prometheus_client")


def serve(
    model: Place,
    *,
    index: Place | None = None,
    read_only: bool = False,
    host: str = "127.0.0.1",
    port: int = 8080,
    token_file: Place | None = None,
    allowed_hosts: tuple[str, ...] = (),
    name: str | None = None,
    drain_seconds: float = 0.0,
    device: str = "auto",
    announce: Callable[[str], None] = lambda address: None,
    **limits: Unpack[LimitKeywords],
) -> None:
    """Serve a model until SIGINT or SIGTERM; requests that were accepted are then finished.

    Args:
        model: an output directory, a model folder, or an exported `.onnx` file.
        index: a folder or the address of a database (`Index.open`), to search and to change; an
            empty one is made where there is none, which a warning says.
        read_only: refuse changes of the index.
        host: the address to listen on; one that other machines reach needs a token.
        port: 0 takes a free one.
        token_file: holds the token that requests must show.
        allowed_hosts: more names of this server, as behind a proxy.
        name: of the model in requests; by default that of its folder or file.
        drain_seconds: in which a server that is asked to stop still accepts connections, while
            /health/ready answers 503; for load balancers.
        device: auto, cpu or cuda.
        announce: called with the address once requests are served.
        limits: `threads`, `queue`, `max_images`, `max_body`, `max_pixels` and `seconds`, as in
            `lookalike.serving.service_limits.ServiceLimits`.

    Raises:
        LookalikeError: no model, an index of another model, an address that is in use, or another
            host without a token.
    """
    log.start()
    [given] = split_keywords(serve, limits, LimitKeywords)
    bounds = ServiceLimits(**given)
    check_number("drain_seconds", drain_seconds, 0)
    if read_only and index is None:
        raise ConfigError("--read-only is of an index: name it with --index DIR")
    names = tuple(places_of("allowed_hosts", allowed_hosts))
    if index is not None:
        check_index_place(place_of("index", index))
    check_port(port)
    access = Access(
        host=host,
        token=None if token_file is None else read_token(token_file),
        names=names,
        max_body=bounds.max_body,
        body_seconds=bounds.seconds,
        open_paths=("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"),
    )
    check_model(model)
    listening = bind(host, port)
    try:
        check_installed("serve", *_PACKAGES)
        if index is not None:
            check_client(os.fspath(index))
        from lookalike.serving.run_server import run_server
        from lookalike.serving.service import create_app

        service = open_service(
            model, index=index, read_only=read_only, name=name, limits=bounds, device=device
        )
        run_server(
            create_app(service, access),
            listening,
            announce=announce,
            stopping=service.stopping,
            drain_seconds=drain_seconds,
        )
    finally:
        listening.close()


def open_service(
    model: Place,
    *,
    index: Place | None = None,
    read_only: bool = False,
    name: str | None = None,
    limits: ServiceLimits | None = None,
    device: str = "auto",
) -> Service:
    """The service of a loaded model, not yet started; see `serve`.

    Raises:
        LookalikeError: no model, or an index of another model.
    """
    from lookalike.serving.served_index import ServedIndex
    from lookalike.serving.service import Service

    place = place_of("model", model)
    loaded = load(place, device=device)
    calibration = calibration_of(place, loaded)
    served = None
    if index is not None:
        opened = _opened(index, loaded, read_only=read_only)
        served = ServedIndex(opened, calibration, read_only=read_only)
    own = name or _name_of(place)
    logger.info(
        "%s: %d numbers a vector, on %s, %s%s",
        own, loaded.embedding_dim, loaded.device, _of(calibration),
        "" if served is None else f", index of {log.counted(len(served.index), 'image')}",
    )  # fmt: skip
    return Service(
        own, loaded, served, calibration is not None, limits or ServiceLimits(),
        int(time.time()), __version__,
    )  # fmt: skip


def _opened(index: Place, model: Embedder | ExportedModel, *, read_only: bool) -> Index:
    place = place_of("index", index)
    if read_only:
        return Index.open(place, model)
    was_there = exists(place) or (not is_store_address(place) and storage.path_of(place).is_dir())
    opened = Index.open_or_create(place, embedder=model)
    if not was_there:
        logger.warning(
            "%s: there was no index, and an empty one was made: no search finds anything before "
            "POST /v1/index adds images. For an index that is there, correct --index%s; "
            "--read-only makes none", opened.place, _close_names(place),
        )  # fmt: skip
    elif not len(opened):
        logger.info("%s: the index has no images yet; POST /v1/index adds some", opened.place)
    return opened


def _close_names(place: str) -> str:
    """Hint at an index in a folder beside `place`, of a similar name."""
    if is_store_address(place):
        return ""
    path = storage.path_of(place).absolute()
    with suppress(OSError):  # a folder that may not be listed
        names = [name for name in os.listdir(path.parent) if name != path.name]
        for name in difflib.get_close_matches(path.name, names, 5):
            if exists(str(path.parent / name)):
                return f" (did you mean {path.parent / name}?)"
    return ""


def _of(calibration: Calibration | None) -> str:
    return "not calibrated" if calibration is None else "calibrated"


def _name_of(model: str) -> str:
    """The last part of a place, without `.onnx`, or of the run above a folder `model`."""
    parts = [part for part in storage.public(os.fspath(model)).split("/") if part not in ("", ".")]
    if len(parts) > 1 and parts[-1] == "model":
        parts.pop()
    return parts[-1].removesuffix(".onnx") if parts else "model"
