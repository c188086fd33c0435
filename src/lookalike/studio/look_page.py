"""The page Look: a picture and its neighbours, by one run's model or two."""

from __future__ import annotations

import numpy as np
from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, Response
from starlette.datastructures import UploadFile

from lookalike.errors import ConfigError
from lookalike.studio.galleries import Galleries, Gallery
from lookalike.studio.page_frame import Frame, Values, fragment, page, sent_to
from lookalike.studio.picture_search import PictureSearch
from lookalike.studio.run_processes import DONE, FAILED, MISSING, WORKING
from lookalike.studio.studio_access import SEARCH
from lookalike.studio.watched_runs import WatchedRun, WatchedRuns, has_model


def router(
    frame: Frame, runs: WatchedRuns, galleries: Galleries, pictures: PictureSearch
) -> APIRouter:
    """The routes of the page."""
    routes = APIRouter()

    @routes.get("/look", response_class=HTMLResponse)
    def look(run: str = "", gallery: str = "", other: str = "") -> Response:
        able = [name for name, path in runs.named().items() if has_model(path)]
        chosen = _chosen(run, other)
        shown = chosen or [runs.one(name) for name in able[:1]]
        offered = galleries.of_run(shown[0]) if shown else []
        states = _states(chosen, gallery) if chosen and gallery else None
        return page(
            frame, "look.html.j2", here="/look", names=able, chosen=chosen, shown=shown,
            offered=offered, gallery=gallery, other=other, states=states,
        )  # fmt: skip

    @routes.get("/look/galleries", response_class=HTMLResponse)
    def choices(run: str) -> Response:
        return fragment(
            "look_galleries.html.j2", offered=galleries.of_run(runs.one(run)), gallery=""
        )

    @routes.post("/look/prepare")
    def prepare(values: Values) -> Response:
        run, other = values.get("run", ""), values.get("other", "")
        gallery = values.get("gallery", "")
        for each, images in _searched(_chosen(run, other), gallery):
            galleries.prepare(each, images)
        asked = {"run": run, "gallery": gallery} | ({"other": other} if other else {})
        return sent_to("/look", **asked)

    @routes.get("/look/state", response_class=HTMLResponse)
    def state(run: str, gallery: str, other: str = "") -> Response:
        chosen = _chosen(run, other)
        return fragment(
            "look_search.html.j2", chosen=chosen, gallery=gallery, other=other,
            states=_states(chosen, gallery),
        )  # fmt: skip

    @routes.post(SEARCH, response_class=HTMLResponse)
    async def search(request: Request) -> Response:
        async with request.form(max_files=1, max_fields=10) as form:
            values = {key: value for key, value in form.items() if isinstance(value, str)}
            file = form.get("picture")
            content = await file.read() if isinstance(file, UploadFile) else b""
            name = file.filename or "" if isinstance(file, UploadFile) else ""
        return await run_in_threadpool(_answer, values, content, name)

    def _answer(values: dict[str, str], content: bytes, name: str) -> Response:
        chosen = _chosen(values.get("run", ""), values.get("other", ""))
        query: np.ndarray | str = values.get("image", "")
        shown = ""
        if content:
            query, shown = pictures.query(content)
        elif isinstance(query, str):
            if not query:
                raise ConfigError("choose a picture, or drop or paste one")
            name = query.rpartition("/")[2]
        answers = [
            pictures.search(run, gallery, query)
            for run, gallery in _searched(chosen, values.get("gallery", ""))
        ]
        return fragment(
            "look_answer.html.j2", answers=answers, name=name, picture=shown, values=values,
        )  # fmt: skip

    def _chosen(run: str, other: str) -> list[WatchedRun]:
        names = [name for name in dict.fromkeys((run, other)) if name]
        if other and not run:
            raise ConfigError("choose a run to compare with")
        return [runs.one(name) for name in names]

    def _searched(chosen: list[WatchedRun], name: str) -> list[tuple[WatchedRun, Gallery]]:
        """Each run and the images it searches; both search those of the first one."""
        if not chosen:
            raise ConfigError("choose a run")
        gallery = galleries.named(chosen[0], name)
        if gallery.index is not None and len(chosen) > 1:
            raise ConfigError("an index is of one model: compare two runs on a list of images")
        return [(run, gallery) for run in chosen]

    def _states(chosen: list[WatchedRun], gallery: str) -> dict[str, object]:
        """The least of the states, and what is said of each."""
        found = [galleries.state(run, images) for run, images in _searched(chosen, gallery)]
        words = {each.state for each in found}
        least = next(word for word in (FAILED, WORKING, MISSING, DONE) if word in words)
        return {"state": least, "lines": [each.text for each in found if each.text]}

    return routes
