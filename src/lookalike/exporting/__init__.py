"""Trained models as single artefacts for production. Plain tables, so that none imports torch."""

from dataclasses import dataclass

FORMATS: dict[str, tuple[str, tuple[str, ...]]] = {
    "onnx": ("model{precision}.onnx", ("fp32", "fp16", "int8")),
    "torch_export": ("model{precision}.pt2", ("fp32", "fp16")),
    "safetensors": ("safetensors{precision}", ("fp32", "fp16")),
    "timm": ("timm{precision}", ("fp32", "fp16")),
}
"""What a model can be exported to: the name by default, and the precisions that there are."""

INPUTS = {"onnx": ("picture", "tensor")}
"""What a model may take beside pictures, by format: a tensor leaves the preprocessing out."""

FORMAT_VERSION = "lookalike export 1"

METADATA = "lookalike"
"""The key of an artefact's description (JSON) in its metadata; folders have `lookalike.json`."""

CALIBRATION = "calibration"
"""The key of the thresholds that the model was calibrated to, as they are in calibration.json."""


@dataclass(frozen=True)
class Bounds:
    """How far an artefact may be from the trained model.

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
"""The bounds by default, by precision."""

COMPARABLE = BOUNDS["fp32"].drift
"""The certified drift up to which vectors of an export and of its trained model are compared.

1 - cosine of 1e-4 between the two vectors of an image moves its cosine to any other by 0.014 at
most. An fp16 export is usually far below, an int8 export above.
"""


def comparable_with(about: object) -> str | None:
    """The fingerprint of the trained model with whose vectors those of an export may be compared.

    Args:
        about: what the artefact says of itself.

    Returns:
        None where its certified drift is larger, or where it does not say.
    """
    try:
        trained, drift = about["trained"]["fingerprint"], about["certificate"]["drift"]  # type: ignore[index]
        return trained if drift <= COMPARABLE and isinstance(trained, str) else None
    except (KeyError, TypeError):
        return None  # of an older version
