"""`lookalike improve`: postprocessing of embeddings, measured; saved with the model on request."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import torch
from torch import Tensor

from lookalike import log, storage
from lookalike.commands.keyword_groups import split_keywords
from lookalike.commands.models import ModelOrigin, load
from lookalike.commands.read_options import ReadKeywords, ReadOptions, settings_among
from lookalike.commands.run_lists import reading_of
from lookalike.data.catalog import Catalog, open_catalog
from lookalike.data.inputs import optional_place, place_of, places_of
from lookalike.data.loading.bad_images import BadImages, none_readable, warn_left_out
from lookalike.data.loading.image_source import Source
from lookalike.data.record import Record
from lookalike.distributed.world import World
from lookalike.errors import ConfigError
from lookalike.log import logger
from lookalike.metrics.bootstrap import Difference, differences
from lookalike.metrics.postprocessing.variants import KEPT, Split, Variant, measure_variant
from lookalike.metrics.protocol import Roles, first_class
from lookalike.metrics.scores import PerQuery, Scores, check_measurable
from lookalike.model.embedder import CONFIG_FILE, WEIGHTS_FILE, Embedder
from lookalike.model.inference import embed_records
from lookalike.model.projection import Projection
from lookalike.storage import Place
from lookalike.storage.atomic import partial_path, replacing
from lookalike.storage.local_files import writing
from lookalike.storage.output_checks import check_output_folder

GAINS = ("recall_at_1", "map_at_r")
"""Metrics that are compared with the plain embeddings."""

MOST_FIT = 20_000
"""Images that whitening is fitted on, at most: every n-th of the list."""


_ABOUT = "improved.json"


@dataclass(frozen=True)
class Improvement:
    """The scores of one variant, compared with the plain embeddings.

    Attributes:
        variant: the steps, joined by `+`; "plain" for none.
        scores: over the same queries and gallery as all others.
        bytes: of a stored vector.
        gains: paired differences of `recall_at_1` and `map_at_r` to the plain embeddings; empty for
            "plain" itself.
    """

    variant: str
    scores: Scores
    bytes: int
    gains: dict[str, Difference]

    def to_dict(self) -> dict[str, object]:
        """Flat, as JSON."""
        return {
            "variant": self.variant,
            "bytes": self.bytes,
            **self.scores.to_dict(),
            "gains": {name: one.to_dict() for name, one in self.gains.items()},
        }


def improve(
    model: Place,
    data: Place,
    *,
    variants: str | Iterable[str] | None = None,
    fit: Place | None = None,
    keep: str | None = None,
    output: Place | None = None,
    format: str = "auto",
    split: str | None = None,
    **read: Unpack[ReadKeywords],
) -> list[Improvement]:
    """Measure postprocessing of the embeddings of a trained model, without training it further.

    Args:
        model: an output directory, or a model folder.
        data: labelled images, which neither the model nor whitening has seen.
        variants: see `lookalike.metrics.postprocessing.variants`; one or several, by default
            one of each kind.
        fit: images that whitening is fitted on; by default the run's training list.
        keep: a variant of `flip`, `whiten` and `dims` to save with the model.
        output: folder of the model with `keep` in it.
        format: of `data`: auto, or one of `lookalike.data.readers.READERS`.
        split: where the data have splits, the one to measure on.
        read: `threads`, `cache`, `cache_size`, `requests`, `allow_truncated`, `path_column`,
            `label_column`, `image_root` and `device`, as in
            `lookalike.commands.read_options.ReadOptions`.

    Returns:
        The plain embeddings first, then the variants in their order.

    Raises:
        LookalikeError: no model, a wrong list, an unknown variant.
    """
    if (keep is None) != (output is None):
        raise ConfigError("keep (--keep) and output (--output) go together")
    kept = None if keep is None else _keepable(keep)
    place = None if output is None else _check_output(output)
    model, data = place_of("model", model), place_of("data", data)
    reading = ReadOptions(**split_keywords(improve, read, ReadKeywords)[0])
    fit = optional_place("fit", fit)
    texts = None if variants is None else places_of("variants", variants)
    parsed = None if texts is None else [Variant.parse(text) for text in texts]
    if parsed == []:
        raise ConfigError("variants is empty: name one, or leave it out for one of each kind")
    log.start()
    embedder = load(model, device=reading.device)
    if not isinstance(embedder, Embedder):
        raise ConfigError(f"{model}: an exported model stays as it is; give the run or its model")
    if kept is not None and (embedder.mirror or embedder.projection is not None):
        raise ConfigError(
            f"{model}: has postprocessing already; start from the model that it came from"
        )
    tried = parsed or [Variant.parse(text) for text in _defaults(embedder, model, fit)]
    needing = [*tried, kept] if kept is not None else tried
    for variant in needing:
        variant.check_dims(embedder.embedding_dim)
    form = reading_of(data, format, settings_among([model]), layout=reading.layout)
    catalog = open_catalog(data, *form, split=split)
    check_measurable(catalog)
    whitened = any("whiten" in variant.steps for variant in needing)
    fitting = _fitting(model, fit, reading) if whitened else None
    views = sorted({"flip" in variant.steps for variant in needing} | {False})
    source = reading.source([model])
    seen = {flip: _View.of(embedder, catalog, fitting, flip, source) for flip in views}
    plain = seen[False]
    split_set = Split.of(plain.labels, plain.roles)
    found: list[Improvement] = []
    base: PerQuery | None = None
    for variant in [Variant("plain", {}), *tried]:
        view = seen["flip" in variant.steps]
        projection = variant.projection(view.vectors.shape[1], view.fit)
        measured = measure_variant(variant, view.vectors, split_set, projection)
        dim = view.vectors.shape[1] if projection is None else len(projection[1])
        gains = {} if base is None else _gains(base, measured, split_set.labels)
        base = base or measured
        found.append(
            Improvement(variant.name, _scores(measured, split_set), variant.bytes_of(dim), gains)
        )
    if kept is not None and place is not None:
        view = seen["flip" in kept.steps]
        projection = kept.projection(view.vectors.shape[1], view.fit)
        _keep(embedder, kept, projection, place)
    return found


def _defaults(embedder: Embedder, model: Place, fit: str | None) -> list[str]:
    """One variant of each kind; whitening only where there is a list to fit on."""
    full = embedder.embedding_dim
    sizes = [dim for dim in (64, 128, 256, 512, 1024) if dim < full]
    learnt = ["whiten"] if fit is not None or ModelOrigin.of(model).config is not None else []
    tried = ["flip", *learnt, *(f"dims={dim}" for dim in sizes), "int8", "binary"]
    return [*tried, "binary_gallery", "augment", "expand", "augment+expand", "rerank"]


def _check_output(output: Place) -> Path:
    """The folder that a model can be written to, checked before any work.

    Raises:
        ConfigError: it is remote, or not empty.
        StorageError: as in `check_output_folder`.
    """
    name = os.fspath(output)
    if storage.is_remote(name):
        raise ConfigError(
            f"--output {storage.public(name)}: an improved model is written to a folder of this "
            "machine; from there, lookalike export FOLDER --format safetensors --data LIST "
            "--output URI takes it on"
        )
    place = Path(storage.local_path(name)).resolve()  # also of a link to nothing yet
    check_output_folder(place)
    if place.exists() and not _is_free(place):
        raise ConfigError(f"{name} is not empty; choose another --output")
    return place


def _is_free(folder: Path) -> bool:
    """True for an empty folder, and for one with what is left of a killed call of ours."""
    names = (_ABOUT, WEIGHTS_FILE, CONFIG_FILE)
    partial = {partial_path(folder / name).name for name in names}
    there = {path.name for path in folder.iterdir()} - partial
    return not there or (_ABOUT in there and there <= {_ABOUT, WEIGHTS_FILE})


def _keepable(text: str) -> Variant:
    variant = Variant.parse(text)
    others = [name for name in variant.steps if name not in KEPT]
    if others:
        raise ConfigError(
            f"--keep {text}: {', '.join(others)} cannot be kept with a model; {', '.join(KEPT)} can"
        )
    return variant


def _fitting(model: Place, fit: str | None, reading: ReadOptions) -> Sequence[Record]:
    """The images that whitening is fitted on, never those that a run held out."""
    records = ModelOrigin.of(model).learned(fit, reading.layout, instead="--fit")
    return records[:: max(1, -(-len(records) // MOST_FIT))]


@dataclass(frozen=True)
class _View:
    """Embeddings with or without flip: `vectors`, (N, D), of the catalog, and `fit`, (M, D)."""

    vectors: Tensor
    labels: Tensor
    roles: Roles | None
    fit: Tensor | None

    @classmethod
    def of(
        cls,
        embedder: Embedder,
        catalog: Catalog,
        fitting: Sequence[Record] | None,
        flip: bool,
        source: Source,
    ) -> _View:
        world, was = World(device=embedder.device), embedder.mirror
        embedder.set_postprocessing(mirror=flip or was, projection=embedder.projection)
        bad = BadImages()
        found = embed_records(embedder, catalog.records, bad=bad, world=world, source=source)
        if len(found.rows) == 0:
            raise none_readable(catalog.records, bad.reasons)
        if not flip:
            warn_left_out(catalog.records, bad.reasons)
        fit = None
        if fitting is not None:
            fit = embed_records(
                embedder,
                fitting,
                bad=BadImages(),
                world=world,
                source=source,
                what="fitting",
            ).vectors
        embedder.set_postprocessing(mirror=was, projection=embedder.projection)
        labels = torch.from_numpy(catalog.all_ids)[found.rows]
        roles = Roles.of(catalog.records)
        return cls(found.vectors, labels, None if roles is None else roles[found.rows], fit)


def _scores(measured: PerQuery, split_set: Split) -> Scores:
    count = len(split_set.labels)
    is_query = torch.zeros(count, dtype=torch.bool)
    is_query[split_set.queries] = True
    searched = torch.zeros(count, dtype=torch.bool)
    searched[split_set.gallery] = True
    return Scores.of(measured, count, Roles(is_query, searched, split_set.groups))


def _gains(plain: PerQuery, measured: PerQuery, labels: Tensor) -> dict[str, Difference]:
    """Paired differences to the plain embeddings; both are of the same queries in one order."""
    first, second = ({name: one.values[name] for name in GAINS} for one in (plain, measured))
    return differences(first, second, first_class(labels)[plain.rows])


def _keep(
    embedder: Embedder, kept: Variant, projection: tuple[Tensor, Tensor] | None, output: Path
) -> None:
    """Write the model with the variant in it.

    The folder may be there, as the current one or as a mount point: it is filled, not replaced.
    The name of the variant comes first and config.json last: see `_is_free`.
    """
    made = None if projection is None else Projection(*projection).to(embedder.device)
    embedder.set_postprocessing(mirror="flip" in kept.steps, projection=made)
    with writing(output), replacing(output / _ABOUT) as about:
        about.write_text(json.dumps({"variant": kept.name}) + "\n", "utf-8")
    embedder.save(output)
    logger.info("%s: the model with %s, vectors of %d", output, kept.name, embedder.embedding_dim)
