"""The page Train: the component's form, its checks, and starting a run."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from lookalike.config.config import Config
from lookalike.errors import ConfigError, LookalikeError, MissingFileError
from lookalike.studio.bundled_example import EXAMPLE, write_request
from lookalike.studio.component_form import PATHS, TABS, form_fields, of_tab, values_of
from lookalike.studio.form_request import FormRequest, read_form
from lookalike.studio.page_frame import Frame, Values, fragment, page, sent_to
from lookalike.studio.roots import Roots
from lookalike.studio.run_processes import QUESTION, RunProcesses
from lookalike.studio.watched_runs import WatchedRuns

_CHECKS = {"doctor": (), "plan": ("--no-measure",)}
_PROGRESS = re.compile(r"[a-z ]+: [\d,]+ of [\d,]+ ")


def router(frame: Frame, roots: Roots, processes: RunProcesses, runs: WatchedRuns) -> APIRouter:
    """The routes of the page."""
    routes = APIRouter()

    @routes.get("/train", response_class=HTMLResponse)
    def train(preset: str = "auto", start_from: str = "", train: str = "") -> Response:
        values, message = _preset(runs, preset)
        if train:
            values |= _shortened({"data.train": train}, roots)
            values.pop("data.format", None)  # of the list that this one replaces
        if start_from:
            values["train.start_from"] = runs.one(start_from).name
        return show(FormRequest(values), preset=preset, message=message)

    @routes.post("/train/example")
    def example() -> Response:
        """Unpack the bundled images and weights, and fill in the request that suits them."""
        file = write_request(roots.resolve(EXAMPLE))
        return sent_to("/train", preset=f"file:{roots.name(file)}")

    @routes.post("/train/check", response_class=HTMLResponse)
    def check(values: Values) -> Response:
        return fragment("train_check.html.j2", found=read_form(values, roots), fields=form_fields())

    @routes.post("/train/start", response_class=HTMLResponse)
    def start(values: Values) -> Response:
        found = read_form(values, roots, complete=True)
        if found.config is not None:
            try:
                process = processes.start(found.config)
            except LookalikeError as error:
                found.errors[""] = str(error)
            else:
                run = process.subject
                if "://" in run:
                    return RedirectResponse("/watch", 303)
                return sent_to("/watch/run", run=roots.name(Path(run)))
        return show(found, preset="", status=422)

    @routes.post("/train/ask/{what}", response_class=HTMLResponse)
    def ask_first(what: str, values: Values) -> Response:
        if what not in _CHECKS:
            raise ConfigError(f"{what[:40]!r} is not one of {', '.join(_CHECKS)}")
        found = read_form(values, roots)
        if found.config is None:
            text = "\n".join(found.errors.values())
            return fragment("train_answer.html.j2", what=what, process=None, text=text)
        asked = found.config.only(found.config.asked() - {"run.output"})
        return answer(what, processes.ask(what, asked, *_CHECKS[what]).folder.name)

    @routes.get("/train/answer", response_class=HTMLResponse)
    def answer(what: str, number: str) -> Response:
        """The progress of a check, or what it has said."""
        for process in processes.all(what):
            if process.subject == QUESTION and process.folder.name == number:
                lines = [line.rstrip() for line in process.output().splitlines()]
                steps = [line for line in lines if _PROGRESS.match(line)]
                text = "\n".join(line for line in lines if line not in steps)
                return fragment(
                    "train_answer.html.j2", what=what, process=process, text=text,
                    progress=steps[-1] if steps else "",
                )  # fmt: skip
        raise ConfigError(f"{number[:40]!r}: no such question")

    @routes.post("/train/give-up/{what}", response_class=HTMLResponse)
    def give_up(what: str) -> Response:
        processes.stop(what, QUESTION, signal.SIGTERM)
        return HTMLResponse('<p class="soft">Given up.</p>')

    @routes.get("/browse", response_class=HTMLResponse)
    def browse(field: str, kind: str = "file", folder: str = "", base: str = "") -> Response:
        """Files to pick, by names that begin at the folder `base`."""
        if field not in PATHS:
            raise ConfigError(f"{field[:40]!r} is not a field with a path")
        entries = roots.listing(folder)
        here = roots.resolve(folder)
        begin = roots.resolve(base)
        above = roots.name(here.parent) if roots.contains(here.parent) else None
        return fragment(
            "browse.html.j2", field=field, kind=kind, entries=entries, above=above,
            base=base, pick=lambda name: roots.name_from(roots.resolve(name), begin),
            here=roots.name(here), roots=[str(root) for root in roots.folders],
        )  # fmt: skip

    def show(
        found: FormRequest, *, preset: str, message: str = "", status: int = 200
    ) -> HTMLResponse:
        return page(
            frame, "train.html.j2", status, here="/train", found=found, tabs=TABS, of_tab=of_tab,
            preset=preset, message=message, saved=list(runs.named()),
            example=EXAMPLE,
        )  # fmt: skip

    return routes


def _preset(runs: WatchedRuns, preset: str) -> tuple[dict[str, str], str]:
    """Values of the form, and what is to be said about them."""
    if preset in ("auto", "component"):
        return {"train.recipe": preset}, ""
    kind, _, name = preset.partition(":")
    if kind == "file":
        file = runs.roots.resolve(name)
        if not file.is_file():
            raise MissingFileError(f"{name[:120]!r}: no such file")
        config = Config.load(name, content=file.read_bytes())
        said = f"The settings of {name}: start training, or change some first."
    elif kind == "run":
        config = runs.settings(runs.one(name), asked=True)
        said = f"The settings of {name}; choose another directory for the output."
    else:
        raise ConfigError(f"preset={preset[:40]!r} is not one of auto, component, run:, file:")
    kept = config.asked() - ({"run.output"} if kind == "run" else set())
    return _shortened(values_of({key: config.get(key) for key in kept}), runs.roots), said


def _shortened(values: dict[str, str], roots: Roots) -> dict[str, str]:
    """The texts with paths below the first root relative to it."""
    found = dict(values)
    for key in PATHS.keys() & values.keys():
        lines = values[key].split("\n")
        found[key] = "\n".join(
            roots.name(Path(line)) if line.startswith(f"{roots.folders[0]}/") else line
            for line in lines
        )
    return found
