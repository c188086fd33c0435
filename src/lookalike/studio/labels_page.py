"""The page of labels and images to check: issues, corrections, and the corrected list."""

from __future__ import annotations

import hashlib
from typing import Any

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, Response

from lookalike.data.record import Record
from lookalike.errors import ConfigError
from lookalike.studio.label_review import LabelReview, ListCorrection
from lookalike.studio.page_frame import Frame, Values, address, fragment, page, report, sent_to
from lookalike.studio.picture_search import PictureSearch
from lookalike.studio.run_processes import DONE
from lookalike.studio.watched_runs import WatchedRun, WatchedRuns

_GROUPS = 12  # of an issue at a time
_IMAGES = 6  # of a group
_MOST_LABELS = 1000  # that are offered


def router(
    frame: Frame, runs: WatchedRuns, review: LabelReview, pictures: PictureSearch
) -> APIRouter:
    """The routes of the page."""
    routes = APIRouter()

    @routes.get("/look/labels", response_class=HTMLResponse)
    def labels(run: str) -> Response:
        return page(frame, "labels.html.j2", here="/look", **state_of(runs.one(run)))

    @routes.get("/look/labels/state", response_class=HTMLResponse)
    def state(run: str) -> Response:
        return fragment("labels_state.html.j2", **state_of(runs.one(run)))

    @routes.post("/look/labels/check")
    def check(values: Values) -> Response:
        run = runs.one(values.get("run", ""))
        review.start(run)
        return sent_to("/look/labels", run=run.name)

    @routes.get("/look/labels/report", response_class=HTMLResponse)
    def report_of(run: str) -> Response:
        return report(review.page(runs.one(run)))

    @routes.get("/look/labels/issue", response_class=HTMLResponse)
    def issue(run: str, kind: str, start: int = 0) -> Response:
        return fragment("labels_cards.html.j2", **cards_of(runs.one(run), kind, max(0, start)))

    @routes.post("/look/labels/correct", response_class=HTMLResponse)
    def correct(values: Values) -> Response:
        run = runs.one(values.get("run", ""))
        after = None if values.get("what") == "remove" else values.get("label", "")
        made = review.correct(
            run, values.get("kind", ""), number(values, "group"), number(values, "image"), after
        )
        return corrected(run, changed=made)

    @routes.post("/look/labels/undo", response_class=HTMLResponse)
    def undo(values: Values) -> Response:
        run = runs.one(values.get("run", ""))
        return corrected(run, changed=review.undo(run, number(values, "number")))

    @routes.post("/look/labels/save", response_class=HTMLResponse)
    def save(values: Values) -> Response:
        run = runs.one(values.get("run", ""))
        name, count, lists = review.save(run, values.get("source", ""), values.get("target", ""))
        train = address("/train", preset=f"run:{run.name}", train="\n".join(lists))
        return corrected(run, saved={"name": name, "count": count, "train": train})

    def state_of(run: WatchedRun) -> dict[str, Any]:
        found = review.state(run)
        values: dict[str, Any] = {"run": run, "check": found, "issues": [], "labels": []}
        if found.state == DONE:
            values["issues"] = review.issues(run)
            values["labels"] = _labels(values["issues"])
            values |= corrections_of(run)
            if values["issues"]:
                values["first"] = cards_of(run, values["issues"][0]["kind"], 0)
        return values

    def corrections_of(run: WatchedRun) -> dict[str, Any]:
        by_list: dict[str, list[tuple[int, ListCorrection]]] = {}
        for at, one in enumerate(review.corrections(run)):
            by_list.setdefault(one.source, []).append((at, one))
        targets = {source: review.target(run, source) for source in by_list}
        return {"run": run, "by_list": by_list, "targets": targets}

    def corrected(
        run: WatchedRun,
        changed: ListCorrection | None = None,
        saved: dict[str, Any] | None = None,
    ) -> HTMLResponse:
        key = None if changed is None else _key(changed)
        return fragment(
            "labels_corrections.html.j2", **corrections_of(run), saved=saved, key=key,
            text=noted(run).get(key, ""),
        )  # fmt: skip

    def noted(run: WatchedRun) -> dict[str | None, str]:
        return {_key(one): _words(one) for one in review.corrections(run)}

    def cards_of(run: WatchedRun, kind: str, start: int) -> dict[str, Any]:
        found = review.issue(run, kind)
        groups = found["groups"][start : start + _GROUPS]
        shown = [each for group in groups for each in group["images"][:_IMAGES]]
        records = {each["image"]: Record(each["image"], "", "", 0) for each in shown}
        now = noted(run)
        separator = runs.settings(run, asked=True).data.label_separator
        cards = [
            {
                "note": group["note"],
                "number": start + at,
                "left": max(0, len(group["images"]) - _IMAGES),
                "images": [
                    {
                        **each,
                        "key": key,
                        "noted": now.get(key, ""),
                        "offered": _offered(each["label"], group.get("label", ""), separator),
                    }
                    for each in group["images"][:_IMAGES]
                    for key in [_row_key(each["source"], each["line"], each["image"])]
                ],
            }
            for at, group in enumerate(groups)
        ]
        then = start + _GROUPS
        return {
            "run": run, "kind": kind, "cards": cards, "pictures": pictures.pictures(records),
            "next": then if then < len(found["groups"]) else None,
        }  # fmt: skip

    def number(values: dict[str, str], name: str) -> int:
        text = values.get(name, "")
        if not (text.isascii() and text.isdecimal() and len(text) < 9):
            raise ConfigError(f"{name}={text[:20]!r} is not a number")
        return int(text)

    return routes


def _offered(label: str, likelier: str, separator: str | None) -> str:
    """The text to correct: the likelier label, behind those of an image that has several."""
    if likelier and separator is not None and separator in label:
        return label + separator + likelier
    return likelier or label


def _words(one: ListCorrection) -> str:
    after = one.correction.after
    return "left out" if after is None else f"now {after}"


def _key(one: ListCorrection) -> str:
    return _row_key(one.source, one.correction.line, one.correction.image)


def _row_key(source: str, line: int, image: str) -> str:
    """A name of a row for the page."""
    return hashlib.sha256(f"{source}\n{line}\n{image}".encode()).hexdigest()[:12]


def _labels(issues: list[dict[str, Any]]) -> list[str]:
    """The labels of all images of the issues."""
    found: dict[str, None] = {}
    for issue in issues:
        for group in issue["groups"]:
            found |= dict.fromkeys([group.get("label", ""), *(i["label"] for i in group["images"])])
    return sorted(label for label in found if label)[:_MOST_LABELS]
