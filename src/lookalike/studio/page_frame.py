"""Pages of the studio: one base page, its navigation, and the files that it loads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from fastapi.responses import HTMLResponse, Response

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

REPORT_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "sandbox allow-scripts; frame-ancestors 'none'"
)
"""A report is one file with its own script; the sandbox keeps it from the studio's session."""

_PACKAGE = "lookalike.studio"
_STATIC = {
    "htmx.min.js": "text/javascript",
    "uplot.min.js": "text/javascript",
    "uplot.min.css": "text/css",
    "studio.js": "text/javascript",
    "curves.js": "text/javascript",
    "look.js": "text/javascript",
    "studio.css": "text/css",
    "workflow_graph.js": "text/javascript",
    "workflow_canvas.js": "text/javascript",
    "workflow_panel.js": "text/javascript",
    "workflow.js": "text/javascript",
    "workflow.css": "text/css",
}


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


def static(name: str) -> Response:
    """A file that pages load.

    Raises:
        MissingFileError: there is none of this name.
    """
    if name not in _STATIC:
        raise MissingFileError(f"{name[:40]!r}: no such file")
    return Response(
        _content(name), media_type=_STATIC[name], headers={"cache-control": "max-age=3600"}
    )


@cache
def _content(name: str) -> bytes:
    own = (files(_PACKAGE) / "static" / name).read_bytes()
    if name != "studio.css":
        return own
    return (files("lookalike.pages") / "templates" / "base.css").read_bytes() + own
