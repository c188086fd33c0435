"""`lookalike improve`: what better use of a trained model gains, measured; kept on request."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lookalike import log, storage
from lookalike.commands.embed import load
from lookalike.commands.models import Provenance, source_of
from lookalike.data.catalog import Catalog, build_catalog
from lookalike.data.inputs import place_of, places_of
from lookalike.data.loading.bad_images import BadImages, describe_bad
from lookalike.data.loading.image_source import Source
from lookalike.data.readers import read_records
from lookalike.data.record import Record
from lookalike.data.splits import measured_split, select
from lookalike.distributed.world import World
from lookalike.errors import ConfigError, DataError
from lookalike.log import logger
from lookalike.metrics.bootstrap import Difference, differences
from lookalike.metrics.postprocessing.variants import KEPT, Split, Variant, measure_variant
from lookalike.metrics.protocol import Roles
from lookalike.metrics.scores import PerQuery, Scores
from lookalike.model.embedder import Embedder
from lookalike.model.inference import embed_records
from lookalike.model.projection import Projection
from lookalike.model.user_images import check_number
from lookalike.storage import Place
from lookalike.storage.atomic import partial_path, put_in_place

GAINS = ("recall_at_1", "map_at_r")
"""What is compared with the plain way."""

MOST_FIT = 20_000
"""Images that whitening is fitted on, at most: every n-th of the list."""


@dataclass(frozen=True)
class Improvement:
    """One way to use a model, beside the plain one.

    Attributes:
        variant: the steps, joined by `+`; "plain" for none.
        scores: over the same queries and gallery as all others.
        bytes: of a stored vector.
        gains: `recall_at_1` and `map_at_r` to what they are above the plain way's, query by query,
            with the interval by class; of the plain way itself, nothing.
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
    threads: int = 4,
    cache: Place | None = None,
    cache_size: str | None = None,
    requests: int | None = None,
    device: str = "auto",
) -> list[Improvement]:
    """Measure ways to use a trained model, none of which trains it further.

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
        threads: threads that read and decode.
        cache: a folder of this machine that keeps images from elsewhere; that of the run by
            default, where this machine has it.
        cache_size: the most that lies there, as "50GB"; that of the run by default.
        requests: for images from elsewhere at a time, for each worker; as in the run by default.
        device: auto, cpu or cuda.

    Returns:
        The plain way first, then the variants in their order.

    Raises:
        LookalikeError: no model, a wrong list, an unknown variant.
    """
    if (keep is None) != (output is None):
        raise ConfigError("keep (--keep) and output (--output) go together")
    kept = None if keep is None else _keepable(keep)
    place = None if output is None else _vacant(output)
    model, data = place_of("model", model), place_of("data", data)
    check_number("threads", threads, 0, ConfigError)
    fit = None if fit is None else place_of("fit", fit)
    texts = None if variants is None else places_of("variants", variants)
    parsed = None if texts is None else [Variant.parse(text) for text in texts]
    log.start()
    embedder = load(model, device=device)
    if not isinstance(embedder, Embedder):
        raise ConfigError(f"{model}: an exported model stays as it is; give the run or its model")
    if kept is not None and (embedder.mirror or embedder.projection is not None):
        raise ConfigError(f"{model}: was improved before; keep with the model that it came from")
    ways = parsed or [Variant.parse(text) for text in _defaults(embedder, model, fit)]
    records = read_records(data, format)
    catalog = build_catalog(select(records, split or measured_split(records)))
    needing = [*ways, kept] if kept is not None else ways
    fitting = _fitting(model, fit, format) if any("whiten" in w.steps for w in needing) else None
    views = sorted({"flip" in way.steps for way in needing} | {False})
    source = source_of([model], cache=cache, cache_size=cache_size, requests=requests)
    seen = {flip: _Seen.of(embedder, catalog, fitting, flip, threads, source) for flip in views}
    plain = seen[False]
    asking = Split.of(plain.labels, plain.roles)
    found: list[Improvement] = []
    base: PerQuery | None = None
    for way in [Variant("plain", {}), *ways]:
        view = seen["flip" in way.steps]
        projection = way.projection(view.vectors.shape[1], view.fit)
        measured = measure_variant(way, view.vectors, asking, projection)
        dim = view.vectors.shape[1] if projection is None else len(projection[1])
        gains = {} if base is None else _gains(base, measured, asking.labels)
        base = base or measured
        found.append(Improvement(way.name, _scores(measured, asking), way.bytes_of(dim), gains))
    if kept is not None and place is not None:
        view = seen["flip" in kept.steps]
        projection = kept.projection(view.vectors.shape[1], view.fit)
        _keep(embedder, kept, projection, place)
    return found


def _defaults(embedder: Embedder, model: Place, fit: str | None) -> list[str]:
    """One of each kind; whitening where there is something to fit on."""
    full = embedder.embedding_dim
    sizes = [dim for dim in (64, 128, 256, 512, 1024) if dim < full]
    learnt = ["whiten"] if fit is not None or Provenance.of(model).config is not None else []
    ways = ["flip", *learnt, *(f"dims={dim}" for dim in sizes), "int8", "binary"]
    return [*ways, "binary_gallery", "augment", "expand", "augment+expand", "rerank"]


def _vacant(output: Place) -> Path:
    """The folder that a model can be written to, looked at before any work.

    Raises:
        ConfigError: it is none, or not empty.
    """
    name = os.fspath(output)
    if storage.is_remote(name):
        raise ConfigError(
            f"--output {storage.public(name)}: an improved model is written to a folder of this "
            "machine; from there, lookalike export FOLDER --format safetensors --data LIST "
            "--output URI takes it on"
        )
    place = Path(storage.local_path(name))
    if place.exists() and not place.is_dir():
        raise ConfigError(f"{place} is a file; choose another --output")
    if place.exists() and any(place.iterdir()):
        raise ConfigError(f"{place} is not empty; choose another --output")
    return place


def _keepable(text: str) -> Variant:
    variant = Variant.parse(text)
    others = [name for name in variant.steps if name not in KEPT]
    if others:
        raise ConfigError(
            f"--keep {text}: {', '.join(others)} cannot be kept with a model; {', '.join(KEPT)} can"
        )
    return variant


def _fitting(model: Place, fit: str | None, format: str) -> Sequence[Record]:
    """The images that whitening is fitted on, never those that a run held out."""
    records = Provenance.of(model).learned(fit, format, instead="--fit")
    return records[:: max(1, -(-len(records) // MOST_FIT))]


@dataclass(frozen=True)
class _Seen:
    """The images in one view: (N, D) `vectors` of the catalog's, and `fit`, (M, D), of others."""

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
        threads: int,
        source: Source,
    ) -> _Seen:
        world, was = World(device=embedder.device), embedder.mirror
        embedder.set_postprocessing(mirror=flip or was, projection=embedder.projection)
        bad = BadImages()
        found = embed_records(
            embedder, catalog.records, threads=threads, bad=bad, world=world, source=source
        )
        if not flip:
            for row, reason in bad.reasons.items():
                logger.warning("left out: %s", describe_bad(catalog.records[row], reason))
        if len(found.rows) == 0:
            raise DataError(f"none of the {len(catalog)} images can be read")
        fit = None
        if fitting is not None:
            fit = embed_records(
                embedder,
                fitting,
                threads=threads,
                bad=BadImages(),
                world=world,
                source=source,
                what="fitting",
            ).vectors
        embedder.set_postprocessing(mirror=was, projection=embedder.projection)
        labels = torch.from_numpy(catalog.class_ids)[found.rows]
        roles = Roles.of(catalog.records)
        return cls(found.vectors, labels, None if roles is None else roles[found.rows], fit)


def _scores(measured: PerQuery, asking: Split) -> Scores:
    count = len(asking.labels)
    is_query = torch.zeros(count, dtype=torch.bool)
    is_query[asking.queries] = True
    searched = torch.zeros(count, dtype=torch.bool)
    searched[asking.gallery] = True
    return Scores.of(measured, count, Roles(is_query, searched, asking.groups))


def _gains(plain: PerQuery, measured: PerQuery, labels: Tensor) -> dict[str, Difference]:
    """What one way gains over the plain one; both are of the same queries in one order."""
    first, second = ({name: one.values[name] for name in GAINS} for one in (plain, measured))
    return differences(first, second, labels[plain.rows])


def _keep(
    embedder: Embedder, kept: Variant, projection: tuple[Tensor, Tensor] | None, output: Path
) -> None:
    """Write the model with the variant in it."""
    made = None if projection is None else Projection(*projection).to(embedder.device)
    embedder.set_postprocessing(mirror="flip" in kept.steps, projection=made)
    aside = partial_path(output)
    shutil.rmtree(aside, ignore_errors=True)
    embedder.save(aside)
    (aside / "improved.json").write_text(json.dumps({"variant": kept.name}) + "\n", "utf-8")
    if output.exists():
        output.rmdir()  # checked to be empty
    put_in_place(aside, output)
    logger.info("%s: the model with %s, vectors of %d", output, kept.name, embedder.embedding_dim)
