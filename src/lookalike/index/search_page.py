"""Search results as one HTML file with its images inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lookalike import pages
from lookalike.data.loading.image_source import PLAIN, Source
from lookalike.data.loading.thumbnails import data_uris
from lookalike.data.record import Record
from lookalike.index.decision import Answer

_SIDE = 176  # pixels of an image


def render(
    answers: Sequence[Answer],
    records: Mapping[str, Record],
    *,
    gallery: int,
    threshold: float | None,
    prior: float | None,
    source: Source = PLAIN,
) -> str:
    """The page.

    Args:
        records: images by id; frames of those that cannot be read stay empty.
        gallery: number of searched images.
        threshold: cosine at and above which two images are the same; None where no cosine is high
            enough, or without a calibration.
        prior: share of same pairs that the probabilities assume; None without a calibration.
    """
    ids = {answer.query for answer in answers}
    ids |= {one.id for answer in answers for one in answer.neighbours}
    known = sorted(ids & records.keys())
    uris = data_uris([records[id] for id in known], _SIDE, source)
    return pages.render(
        "search.html.j2",
        answers=answers,
        images=dict.fromkeys(ids, "") | dict(zip(known, uris, strict=True)),
        gallery=gallery,
        threshold=threshold,
        prior=prior,
    )
