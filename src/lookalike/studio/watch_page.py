"""The page Watch: all runs, one run while it trains, several over each other."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from lookalike.errors import ConfigError, MissingFileError
from lookalike.studio.page_frame import REPORT_POLICY, Frame, fragment, page
from lookalike.studio.roots import Roots
from lookalike.studio.run_processes import RunProcesses
from lookalike.studio.train_page import form_values
from lookalike.studio.watched_runs import WatchedRuns

_MOST_COMPARED = 8


def router(frame: Frame, roots: Roots, processes: RunProcesses, runs: WatchedRuns) -> APIRouter:
    """The routes of the page."""
    routes = APIRouter()

    @routes.get("/watch", response_class=HTMLResponse)
    def watch() -> Response:
        return page(frame, "watch.html.j2", here="/watch", runs=runs.all())

    @routes.get("/watch/list", response_class=HTMLResponse)
    def listed() -> Response:
        return fragment("watch_list.html.j2", runs=runs.all())

    @routes.get("/watch/run", response_class=HTMLResponse)
    def one(run: str) -> Response:
        return page(frame, "watch_run.html.j2", here="/watch", run=runs.one(run))

    @routes.get("/watch/live", response_class=HTMLResponse)
    def live(run: str) -> Response:
        return fragment("watch_live.html.j2", run=runs.one(run))

    @routes.get("/watch/curves")
    def curves(run: Annotated[list[str], Query()]) -> list[dict[str, Any]]:
        return [runs.curves(each) for each in several(run)]

    @routes.get("/watch/compare", response_class=HTMLResponse)
    def compare(run: Annotated[list[str], Query()]) -> Response:
        found = several(run)
        return page(
            frame, "watch_compare.html.j2", here="/watch", runs=found, rows=runs.differing(found)
        )

    @routes.get("/watch/report", response_class=HTMLResponse)
    def report(run: str) -> Response:
        file = roots.resolve(str(runs.one(run).path / "report.html"))
        if not file.is_file():
            raise MissingFileError(f"{run[:120]!r}: has no report.html yet")
        return Response(
            file.read_bytes(),
            media_type="text/html",
            headers={"content-security-policy": REPORT_POLICY},
        )

    @routes.post("/watch/stop")
    def stop(values: Annotated[dict[str, str], Depends(form_values)]) -> Response:
        run = runs.one(values.get("run", ""))
        processes.stop(str(run.path))
        return RedirectResponse("/watch/run?" + urlencode({"run": run.name}), 303)

    @routes.post("/watch/resume")
    def resume(values: Annotated[dict[str, str], Depends(form_values)]) -> Response:
        run = runs.one(values.get("run", ""))
        processes.start(runs.permitted(run), resume=True)
        return RedirectResponse("/watch/run?" + urlencode({"run": run.name}), 303)

    def several(names: list[str]) -> list[Any]:
        if len(names) > _MOST_COMPARED:
            raise ConfigError(f"{len(names)} runs: at most {_MOST_COMPARED} are compared")
        return [runs.one(name) for name in names]

    return routes
