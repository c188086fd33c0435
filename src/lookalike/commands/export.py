"""`lookalike export`: one certified artefact for production."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np

from lookalike import log, storage
from lookalike.commands.keyword_groups import split_keywords
from lookalike.commands.models import ModelOrigin, check_model, load
from lookalike.commands.read_options import ReadKeywords, ReadOptions, check_layout
from lookalike.data.held_out_classes import sample_classes
from lookalike.data.inputs import optional_place, place_of
from lookalike.data.loading.bad_images import BadImages, none_readable
from lookalike.data.loading.image_source import Source
from lookalike.data.loading.sequential import EvalLoader
from lookalike.data.read_files import check_not_read
from lookalike.data.record import Record
from lookalike.errors import ConfigError, ExportError, check_installed, check_number
from lookalike.exporting import BOUNDS, FORMATS, INPUTS, Bounds
from lookalike.exporting.artefact import atomic_output, atomic_upload, describe
from lookalike.exporting.card import write_card
from lookalike.exporting.certificate import Certificate, certify
from lookalike.exporting.export_formats import WRITERS, write_onnx
from lookalike.log import logger
from lookalike.metrics.calibration import Calibration
from lookalike.metrics.scores import check_measurable, findable_queries
from lookalike.model.embedder import Embedder
from lookalike.run import EXPORTS
from lookalike.storage import Place
from lookalike.storage.local_files import writing
from lookalike.storage.output_checks import check_distinct, check_output_file, check_output_folder

RANGES = 256
"""Images whose activations set the ranges of int8."""


class BoundKeywords(TypedDict, total=False):
    """Bounds of the certificate, as keywords of `export`; by default those of `BOUNDS`.

    Attributes:
        max_drift: largest 1 - cosine between the two vectors of an image.
        max_recall_change: largest change of Recall@1, as a fraction of 1.
    """

    max_drift: float | None
    max_recall_change: float | None


class ExportKeywords(ReadKeywords, BoundKeywords, total=False):
    """Those keywords of `export` that belong together."""


@dataclass(frozen=True)
class Exported:
    """Result of `export`; `path` is the file or folder, or its URI in object storage."""

    path: Path | str
    certificate: Certificate


def export(
    model: Place,
    format: str = "onnx",
    *,
    precision: str = "fp32",
    input: str = "picture",
    output: Place | None = None,
    data: Place | None = None,
    data_format: str = "auto",
    split: str | None = None,
    max_images: int = 1000,
    ranges: Place | None = None,
    **more: Unpack[ExportKeywords],
) -> Exported:
    """Write a model as one artefact, from the decoded image to the unit vector, with a certificate.

    The artefact is read back and compared with the trained model on labelled images, on the CPU.
    It is kept only if it gives the same vectors and the same neighbours, within bounds.

    Args:
        model: an output directory, or a model folder.
        format: one of `lookalike.exporting.FORMATS`.
        precision: fp32, fp16 or int8.
        input: picture, decoded and of any size; or, for onnx, tensor: float32 (B, 3, H, W),
            preprocessed and normalised.
        output: file or folder, or its URI in object storage; `exports/` in the run by default.
        data: labelled images to compare on; the run's validation images by default, or its
            training images where it had none.
        data_format: of `data`: auto, or one of `lookalike.data.readers.READERS`.
        split: where `data` has splits, the one to take.
        max_images: images to compare on at most; whole classes.
        ranges: for int8: images whose activations set the ranges; the run's training images by
            default.
        more: `max_drift` and `max_recall_change`, as in
            `lookalike.commands.export.BoundKeywords`; `threads`, `cache`, `cache_size`, `requests`,
            `allow_truncated`, `path_column`, `label_column` and `image_root`, as in
            `lookalike.commands.read_options.ReadOptions`.

    Raises:
        ExportError: torch cannot export this network, or a bound is exceeded; nothing is written.
        LookalikeError: no model, a wrong choice, or nothing to measure on.
    """
    _check(format, precision, input, max_images)
    model = place_of("model", model)
    allowed, read = split_keywords(export, more, BoundKeywords, ReadKeywords)
    options = ReadOptions(**read)
    for name, value in allowed.items():
        if value is not None:
            check_number(name, value, 0)
    if options.device not in ("auto", "cpu"):
        raise ConfigError(
            f"device={options.device!r}: exports are certified on the CPU; leave it out"
        )
    data = optional_place("data", data)
    ranges = optional_place("ranges", ranges)
    check_layout(options.layout, data or ranges, "--data too")
    if split is not None and data is None:
        raise ConfigError(f"split={split!r} (--split) is one of data: give --data too")
    log.start()
    _check_origin(model, output)
    source = ModelOrigin.of(model)
    place = _place(source, format, precision, input, output)
    check_distinct([place], [model, data, ranges])
    calibration = None
    if source.calibration is not None:
        calibration = Calibration.from_json(source.calibration, source.place)
    catalog, list_name = source.labelled(data, data_format, split, options.layout)
    check_measurable(catalog)
    check_not_read([place], catalog.records)
    if format == "onnx":
        check_installed("onnx", "onnx", "onnxscript", "onnxruntime")
    embedder = load(model, device="cpu")
    assert isinstance(embedder, Embedder)
    sample = sample_classes(catalog, max_images, findable=findable_queries(catalog).numpy())
    images = options.source([model])
    batches = None
    if precision == "int8":
        learned = source.learned(ranges, options.layout, instead="--ranges")
        batches = _batches(embedder, learned, images)
    where = atomic_upload(place) if isinstance(place, str) else atomic_output(place)
    with where as path, writing(place if isinstance(place, Path) else path):
        write = partial(write_onnx, input=input) if format == "onnx" else WRITERS[format]
        artefact = write(embedder, precision, path, batches)
        bounds = _bounds(precision, **allowed)
        proven = partial(certify, embedder, catalog=sample, bounds=bounds, source=images)
        certificate = proven(artefact.reread())
        certificate.check()
        own = None if artefact.fingerprint is None else artefact.fingerprint()
        certified = [artefact.runtime]
        for runtime, reread in artefact.also.items():
            try:
                proven(reread()).check()
            except ExportError as error:
                logger.warning("not certified for %s: %s", runtime, error)
            else:
                certified.append(runtime)
        about = describe(
            embedder,
            format,
            precision,
            certificate,
            own,
            input=input,
            certified_with=certified,
            measured_on=list_name,
        )
        artefact.finish(about, source.calibration)
        if path.is_dir():
            write_card(
                path,
                embedder,
                about,
                name=path.name,
                list_name=list_name,
                sampled=len(sample) < len(catalog),
                training=source.facts(),
                calibration=calibration,
            )
    shown = storage.public(str(place))
    logger.info("%s: %s", shown, certificate.summary())
    logger.info("%s: certified for %s, on the CPU", shown, ", ".join(about["certified_for"]))
    return Exported(place, certificate)


def _bounds(
    precision: str, max_drift: float | None = None, max_recall_change: float | None = None
) -> Bounds:
    usual = BOUNDS[precision]
    return Bounds(
        drift=usual.drift if max_drift is None else max_drift,
        recall_change=usual.recall_change if max_recall_change is None else max_recall_change,
    )


def _batches(embedder: Embedder, records: Sequence[Record], source: Source) -> Iterator[np.ndarray]:
    """Preprocessed batches (b, 3, S, S) uint8 of `RANGES` images, taken evenly from all."""
    step, bad = max(1, len(records) // RANGES), BadImages()
    some = records[::step][:RANGES]
    loader = EvalLoader(
        some,
        preprocess=embedder.preprocess,
        batch_size=32,
        bad=bad,
        source=source,
    )
    empty = True
    for batch in loader:
        empty = False
        yield np.ascontiguousarray(batch.images.numpy())
    if empty:
        raise none_readable(some, bad.reasons)


def _check(format: str, precision: str, input: str, max_images: int) -> None:
    if not isinstance(format, str) or format not in FORMATS:
        raise ConfigError(f"format={format!r} is not one of {', '.join(FORMATS)}")
    choices = FORMATS[format][1]
    if precision not in choices:
        raise ConfigError(
            f"precision={precision!r} is not one of {', '.join(choices)}, which {format} has"
        )
    inputs = INPUTS.get(format, ("picture",))
    if input not in inputs:
        others = ", ".join(name for name, kinds in INPUTS.items() if input in kinds)
        hint = f"; {others} has it" if others else ""
        raise ConfigError(
            f"input={input!r} is not one of {', '.join(inputs)}, which {format} has{hint}"
        )
    if max_images < 2:
        raise ConfigError(f"max_images={max_images} must be at least 2")


def _check_origin(model: str, output: Place | None) -> None:
    """Check that there is a model that can be exported; a remote one only where it is the output's.

    Raises:
        ConfigError: it is exported already.
        RunError: there is none.
    """
    is_export = storage.public(model).endswith(".onnx")
    if is_export or output is None or not storage.is_remote(model):
        check_model(model)
    if is_export:
        raise ConfigError(
            f"{storage.public(model)}: is exported already; give the run or model folder that it "
            "was exported from"
        )


def name_of(format: str = "onnx", precision: str = "fp32", input: str = "picture") -> str:
    """The usual name of an artefact."""
    suffix = "" if input == "picture" else f"-{input}"
    suffix += "" if precision == "fp32" else f"-{precision}"
    return FORMATS[format][0].format(precision=suffix)


def _place(
    source: ModelOrigin, format: str, precision: str, input: str, output: Place | None
) -> Path | str:
    """Destination of the artefact: a path of this machine, or a URI."""
    if output is not None:
        place = os.fspath(output)
    elif source.config is None:
        raise ConfigError(f"{source.place}: not a run, but a model; give --output PATH")
    else:
        place = storage.join(source.uri, f"{EXPORTS}/{name_of(format, precision, input)}")
    shown = storage.public(place).rstrip("/")
    ending = {"onnx": ".onnx", "torch_export": ".pt2"}.get(format)
    if ending is not None and not shown.endswith(ending):
        raise ConfigError(f"{shown}: the name of a file for {format} must end in {ending}")
    if ending is None:
        check_output_folder(place)
    else:
        check_output_file(place)
    return place if storage.is_remote(place) else Path(storage.local_path(place))
