"""Search results as one HTML file with its pictures inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jinja2

from lookalike.data.loading.image_source import PLAIN, Source
from lookalike.data.loading.thumbnails import data_uris
from lookalike.data.record import Record
from lookalike.index.decision import Answer

_SIDE = 176  # pixels of a picture


def render(
    answers: Sequence[Answer],
    records: Mapping[str, Record],
    *,
    gallery: int,
    threshold: float | None,
    prior: float | None,
    threads: int,
    source: Source = PLAIN,
) -> str:
    """The page.

    Args:
        answers: shown in this order.
        records: of the pictures, by id; unreadable ones leave an empty frame.
        gallery: the number of images that were searched.
        threshold: the cosine from which two images are the same; None where none is enough, or
            without a calibration.
        prior: the share of same pairs that the probabilities assume; None without a calibration.
        threads: that read the pictures.
        source: of the pictures' bytes.
    """
    ids = {answer.query for answer in answers}
    ids |= {one.id for answer in answers for one in answer.neighbours}
    there = sorted(ids & records.keys())
    found = data_uris([records[id] for id in there], _SIDE, threads, source)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lookalike.index", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("search_page.html.j2").render(
        answers=answers,
        pictures=dict.fromkeys(ids, "") | dict(zip(there, found, strict=True)),
        gallery=gallery,
        threshold=threshold,
        prior=prior,
    )
