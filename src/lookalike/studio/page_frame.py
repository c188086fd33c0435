"""Pages of the studio: one base page, its navigation, and the files that it loads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from lookalike import __version__
from lookalike.errors import MissingFileError
from lookalike.pages import render

NAVIGATION = (
    ("/train", "Train"),
    ("/watch", "Watch"),
    ("/look", "Look"),
    ("/workflow", "Workflow"),
)
"""Address and name of each page; a page is one module and its templates."""

_REPORT_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "sandbox allow-scripts; frame-ancestors 'none'"
)
"""A report is one file with its own script; the sandbox keeps it from the studio's session."""

_PACKAGE = "lookalike.studio"
_TYPES = {".js": "text/javascript", ".css": "text/css"}


async def form_values(request: Request) -> dict[str, str]:
    """The texts of a submitted form."""
    async with request.form(max_files=0, max_fields=1000) as form:
        return {key: value for key, value in form.items() if isinstance(value, str)}


Values = Annotated[dict[str, str], Depends(form_values)]
"""Type of the parameter of a route that takes a form."""


@dataclass(frozen=True)
class Frame:
    """Values that every page shows; `roots` are the names of the folders."""

    roots: tuple[str, ...]
    has_login: bool = False


def page(frame: Frame, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A whole page."""
    text = render(
        template, package=_PACKAGE, frame=frame, navigation=NAVIGATION, version=__version__,
        **values,
    )  # fmt: skip
    # With `no-referrer` browsers send a form of ours with `Origin: null`, as from another site.
    return HTMLResponse(text, status, {"referrer-policy": "same-origin"})


def fragment(template: str, **values: Any) -> HTMLResponse:
    """A part of a page, which replaces an earlier one."""
    return HTMLResponse(render(template, package=_PACKAGE, **values))


def report(content: bytes) -> Response:
    """A report, which is a whole page of its own."""
    headers = {"content-security-policy": _REPORT_POLICY}
    return Response(content, media_type="text/html", headers=headers)


def address(path: str, **query: str) -> str:
    """The address of a page."""
    return f"{path}?{urlencode(query)}"


def sent_to(path: str, **query: str) -> Response:
    """Sends the browser on to another page after a form."""
    return RedirectResponse(address(path, **query), 303)


def static(name: str) -> Response:
    """A file that pages load.

    Raises:
        MissingFileError: there is none of this name.
    """
    kind = _TYPES.get(Path(name).suffix)
    if kind is None or name not in _contents():
        raise MissingFileError(f"{name[:40]!r}: no such file")
    headers = {"cache-control": "max-age=3600"}
    return Response(_contents()[name], media_type=kind, headers=headers)


@cache
def _contents() -> dict[str, bytes]:
    """The static files by name; the studio's style begins with that of all pages."""
    found = {file.name: file.read_bytes() for file in (files(_PACKAGE) / "static").iterdir()}
    base = files("lookalike.pages") / "templates" / "base.css"
    return {**found, "studio.css": base.read_bytes() + found["studio.css"]}
