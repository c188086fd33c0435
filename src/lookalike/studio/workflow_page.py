"""The page Workflow: workflows below the roots, and the canvas of one."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse, HTMLResponse, Response
from pydantic import BaseModel, ConfigDict

from lookalike.errors import ConfigError
from lookalike.studio.canvas_graph import CanvasGraph
from lookalike.studio.component_form import TABS
from lookalike.studio.form_request import FormRequest
from lookalike.studio.node_form import node_fields
from lookalike.studio.page_frame import Frame, Values, fragment, page, sent_to
from lookalike.studio.roots import YAML
from lookalike.studio.workflow_files import WorkflowFiles
from lookalike.studio.workflow_runs import WorkflowRuns
from lookalike.workflow.example_workflow import FILE, write_example
from lookalike.workflow.node_kinds import KINDS


class CanvasRequest(BaseModel):
    """Request of the canvas.

    Attributes:
        file: name of the workflow.
        version: of the file when it was opened or saved here.
        graph: to check or save; None leaves the file.
        only: the one node to run.
        again: a node to run even if nothing changed.
    """

    model_config = ConfigDict(extra="forbid")

    file: str
    version: str = ""
    graph: CanvasGraph | None = None
    only: str = ""
    again: str = ""


def router(frame: Frame, files: WorkflowFiles, runs: WorkflowRuns) -> APIRouter:
    """The routes of the page."""
    routes = APIRouter()

    @routes.get("/workflow", response_class=HTMLResponse)
    def workflows() -> Response:
        found = [(name, runs.is_running(files.path(name))) for name in files.all()]
        return page(frame, "workflow_list.html.j2", here="/workflow", workflows=found)

    @routes.get("/workflow/canvas", response_class=HTMLResponse)
    def canvas(file: str) -> Response:
        opened = files.open(file)
        return page(
            frame, "workflow_canvas.html.j2", here="/workflow", file=files.roots.name(opened.path),
            error=opened.error, comments=opened.lost_comments, kinds=KINDS,
        )  # fmt: skip

    @routes.get("/workflow/graph")
    def graph(file: str) -> dict[str, Any]:
        opened = files.open(file)
        if opened.graph is None:
            raise ConfigError(opened.error)
        kinds = {
            name: {
                "text": kind.text,
                "inputs": {
                    port: {"types": each.types, "key": each.key, "required": each.required}
                    for port, each in kind.inputs.items()
                },
                "outputs": {port: each.type for port, each in kind.outputs.items()},
            }
            for name, kind in KINDS.items()
        }
        return {"version": opened.version, "kinds": kinds, "graph": opened.graph.model_dump()}

    @routes.get("/workflow/fields", response_class=HTMLResponse)
    def fields(file: str, uses: str) -> Response:
        if uses not in KINDS:
            raise ConfigError(f"{uses[:40]!r} is not one of {', '.join(KINDS)}")
        found = node_fields(uses)
        tabs = [tab for tab in TABS if any(each.tab == tab for each in found)] or [""]
        return fragment(
            "workflow_fields.html.j2", tabs=tabs, fields=found, found=FormRequest({}),
            base=files.roots.name(files.path(file).parent),
        )  # fmt: skip

    @routes.post("/workflow/check")
    def check(asked: CanvasRequest) -> dict[str, Any]:
        return _checked(asked)

    @routes.post("/workflow/save")
    def save(asked: CanvasRequest) -> dict[str, Any]:
        checked = _checked(asked)
        version = files.save(files.path(asked.file), checked["text"], asked.version)
        return {**checked, "version": version}

    @routes.post("/workflow/run")
    def run(asked: CanvasRequest) -> dict[str, Any]:
        path = files.path(asked.file)
        runs.start(path, only=asked.only, again=asked.again)
        return runs.view(path)

    @routes.post("/workflow/stop")
    def stop(asked: CanvasRequest) -> dict[str, Any]:
        path = files.path(asked.file)
        runs.stop(path)
        return runs.view(path)

    @routes.post("/workflow/plan")
    def plan(asked: CanvasRequest) -> dict[str, Any]:
        notes, error = runs.plan(files.path(asked.file))
        return {"notes": notes, "error": error}

    @routes.get("/workflow/state")
    def state(file: str) -> dict[str, Any]:
        return runs.view(files.path(file))

    @routes.get("/workflow/log")
    def log(file: str, node: str) -> dict[str, str]:
        return {"log": runs.log(files.path(file), node)}

    @routes.get("/workflow/result")
    def result(file: str, node: str, port: str) -> Response:
        found = runs.result(files.path(file), node, port)
        if found.suffix == ".json":
            return FileResponse(found, media_type="application/json")
        return FileResponse(found, filename=found.name, media_type="application/octet-stream")

    @routes.post("/workflow/new")
    def new(values: Values) -> Response:
        name = values.get("file", "").strip()
        path = files.path(name if name.endswith(YAML) else f"{name}.yaml")
        if path.exists():
            raise ConfigError(
                f"{files.roots.name(path)}: is there already; open it, or choose another name"
            )
        if not path.parent.is_dir():
            raise ConfigError(f"{files.roots.name(path.parent)}: no such folder")
        return sent_to("/workflow/canvas", file=files.roots.name(path))

    @routes.post("/workflow/example")
    def example(values: Values) -> Response:
        folder = files.path(f"{values.get('folder', '').strip()}/{FILE}").parent
        return sent_to("/workflow/canvas", file=files.roots.name(write_example(folder)))

    def _checked(asked: CanvasRequest) -> dict[str, Any]:
        """Text and faults of a canvas."""
        if asked.graph is None:
            raise ConfigError("graph is missing")
        path = files.path(asked.file)
        text = asked.graph.draft().text()
        faults = [
            {"node": f.node, "key": f.key, "text": f.text, "message": f.message}
            for f in files.check(path, text)
        ]
        return {"text": text, "faults": faults}

    return routes
