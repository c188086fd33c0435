"""The application of the studio: its pages behind the access checks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from lookalike.errors import LookalikeError
from lookalike.serving.access import Access
from lookalike.serving.guard import Guard
from lookalike.serving.problems import Problem, install, problem_response, status_of
from lookalike.studio import labels_page, look_page, train_page, watch_page, workflow_page
from lookalike.studio.galleries import Galleries
from lookalike.studio.label_review import LabelReview
from lookalike.studio.page_frame import Frame, Values, page, static
from lookalike.studio.picture_search import PictureSearch
from lookalike.studio.roots import Roots
from lookalike.studio.run_processes import RunProcesses
from lookalike.studio.studio_access import LOGIN
from lookalike.studio.watched_runs import WatchedRuns
from lookalike.studio.workflow_files import WorkflowFiles
from lookalike.studio.workflow_runs import WorkflowRuns


def create_app(
    folders: Sequence[Path | str], access: Access, indexes: Sequence[str] = ()
) -> ASGIApp:
    """The studio on these folders, and on indexes at addresses of databases.

    Raises:
        ConfigError: a folder is none, or an address.
    """
    roots = Roots(folders)
    processes = RunProcesses(roots.folders[0])
    runs = WatchedRuns(roots, processes)
    frame = Frame(tuple(map(str, roots.folders)), access.token is not None)
    app = FastAPI(title="lookalike studio", docs_url=None, redoc_url=None, openapi_url=None)
    install(app)

    def refusal(request: Request, status: int, text: str, **headers: str) -> Response:
        """A page for a browser's navigation, a problem object for all else."""
        if _is_navigation(request):
            return page(frame, "mistake.html.j2", status, here="", message=text)
        return problem_response(status, text, headers)

    @app.exception_handler(LookalikeError)
    async def mistaken(request: Request, error: LookalikeError) -> Response:
        return refusal(request, status_of(error), str(error))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        return refusal(request, error.status_code, str(error.detail), **(error.headers or {}))

    @app.get("/")
    def first() -> Response:
        return RedirectResponse("/watch" if runs.places() else "/train", 303)

    @app.get("/static/{name}")
    def file(name: str) -> Response:
        return static(name)

    @app.get("/health/live")
    def live() -> dict[str, str]:
        return {"status": "ok"}

    if access.token is not None:

        @app.get(LOGIN)
        def login(next: str = "/") -> Response:
            return page(frame, "login.html.j2", here="", message="", next=_own_page(next))

        @app.post(LOGIN)
        def enter(request: Request, values: Values) -> Response:
            back = _own_page(values.get("next", "/"))
            if not access.is_token(values.get("token", "")):
                said = "That is not the token."
                return page(frame, "login.html.j2", 401, here="", message=said, next=back)
            response = RedirectResponse(back, 303)
            secure = request.url.scheme == "https"
            response.headers["set-cookie"] = access.session_cookie(secure=secure)
            return response

    app.include_router(train_page.router(frame, roots, processes, runs))
    app.include_router(watch_page.router(frame, roots, processes, runs))
    galleries, pictures = Galleries(roots, processes, runs, indexes), PictureSearch(roots)
    app.include_router(look_page.router(frame, runs, galleries, pictures))
    review = LabelReview(roots, processes, runs)
    app.include_router(labels_page.router(frame, runs, review, pictures))
    files = WorkflowFiles(roots)
    flows = WorkflowRuns(files, processes, runs)
    app.include_router(workflow_page.router(frame, files, flows))

    @app.api_route("/{rest:path}", methods=["GET", "HEAD"], include_in_schema=False)
    def nothing(rest: str) -> Response:
        raise Problem(404, "no such page")

    return Guard(app, access)


def _is_navigation(request: Request) -> bool:
    """True for a page that a browser opens, not one that a script of ours asks for."""
    headers = request.headers
    return "text/html" in headers.get("accept", "") and "hx-request" not in headers


def _own_page(text: str) -> str:
    """The path of a page of ours that a browser is sent back to; the first page for any other."""
    is_path = text.startswith("/") and not text.startswith("//") and "\\" not in text
    return text if is_path and text.isprintable() and not text.startswith(LOGIN) else "/"
