"""Export of trained models to single artefacts. Plain tables, without torch."""

from dataclasses import dataclass

FORMATS: dict[str, tuple[str, tuple[str, ...]]] = {
    "onnx": ("model{precision}.onnx", ("fp32", "fp16", "int8")),
    "torch_export": ("model{precision}.pt2", ("fp32", "fp16")),
    "safetensors": ("safetensors{precision}", ("fp32", "fp16")),
    "timm": ("timm{precision}", ("fp32", "fp16")),
}
"""Formats: default name and precisions."""

INPUTS = {"onnx": ("picture", "tensor")}
"""Formats with a choice of input; a tensor leaves the preprocessing out."""

FORMAT_VERSION = "lookalike export 1"

METADATA = "lookalike"
"""Key of an artefact's description (JSON) in its metadata; folders have `lookalike.json`."""

CALIBRATION = "calibration"
"""Key of the content of calibration.json."""


@dataclass(frozen=True)
class Bounds:
    """Bounds of the difference between an artefact and the trained model.

    Attributes:
        drift: largest 1 - cosine between an image's vector and that of the trained model.
        recall_change: largest change of Recall@1, up or down, as a fraction of 1.
    """

    drift: float
    recall_change: float


BOUNDS = {
    "fp32": Bounds(drift=1e-4, recall_change=0.001),
    "fp16": Bounds(drift=1e-3, recall_change=0.005),
    "int8": Bounds(drift=0.1, recall_change=0.02),
}
"""Default bounds by precision."""

COMPARABLE = BOUNDS["fp32"].drift
"""Certified drift up to which vectors of an export and of its trained model are comparable: it
moves the cosine to any other vector by 0.014 at most. fp16 is usually far below, int8 above."""


def comparable_with(about: object) -> str | None:
    """Fingerprint of the trained model whose vectors are comparable with those of an export.

    None where the certified drift in its description is larger than `COMPARABLE`, or missing.
    """
    try:
        trained, drift = about["trained"]["fingerprint"], about["certificate"]["drift"]  # type: ignore[index]
        return trained if drift <= COMPARABLE and isinstance(trained, str) else None
    except (KeyError, TypeError):
        return None  # of an older version
