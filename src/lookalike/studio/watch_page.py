"""The page Watch: all runs, one run while it trains, several over each other."""

from __future__ import annotations

import signal
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse, Response

from lookalike.errors import ConfigError, MissingFileError
from lookalike.studio.page_frame import Frame, Values, fragment, page, report, sent_to
from lookalike.studio.roots import Roots
from lookalike.studio.run_processes import TRAIN, RunProcesses
from lookalike.studio.watched_runs import MOST_LISTED, WatchedRuns

_MOST_COMPARED = 8


def router(frame: Frame, roots: Roots, processes: RunProcesses, runs: WatchedRuns) -> APIRouter:
    """The routes of the page."""
    routes = APIRouter()

    @routes.get("/watch", response_class=HTMLResponse)
    def watch(find: str = "", start: int = 0) -> Response:
        return page(frame, "watch.html.j2", here="/watch", **listed(find, start))

    @routes.get("/watch/list", response_class=HTMLResponse)
    def watched(find: str = "", start: int = 0) -> Response:
        return fragment("watch_list.html.j2", **listed(find, start))

    @routes.get("/watch/run", response_class=HTMLResponse)
    def one(run: str) -> Response:
        return page(frame, "watch_run.html.j2", here="/watch", run=runs.one(run))

    @routes.get("/watch/live", response_class=HTMLResponse)
    def live(run: str) -> Response:
        return fragment("watch_answer.html.j2", run=runs.one(run))

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
    def report_of(run: str) -> Response:
        file = roots.resolve(str(runs.one(run).path / "report.html"))
        if not file.is_file():
            raise MissingFileError(f"{run[:120]!r}: has no report.html yet")
        return report(file.read_bytes())

    @routes.post("/watch/stop")
    def stop(values: Values) -> Response:
        run = runs.one(values.get("run", ""))
        processes.stop(TRAIN, str(run.path), signal.SIGTERM)
        return sent_to("/watch/run", run=run.name)

    @routes.post("/watch/resume")
    def resume(values: Values) -> Response:
        run = runs.one(values.get("run", ""))
        processes.start(runs.permitted(run), resume=True)
        return sent_to("/watch/run", run=run.name)

    def listed(find: str, start: int) -> dict[str, Any]:
        start = max(0, start)
        found, count = runs.newest(find, start)
        return {"runs": found, "count": count, "find": find, "start": start, "most": MOST_LISTED}

    def several(names: list[str]) -> list[Any]:
        if len(names) > _MOST_COMPARED:
            raise ConfigError(f"{len(names)} runs: at most {_MOST_COMPARED} are compared")
        return [runs.one(name) for name in names]

    return routes
