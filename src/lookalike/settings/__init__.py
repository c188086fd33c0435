"""Every setting once, by section, documented by the string beneath it."""

from lookalike.settings.data import FORMAT_ALIASES, DataConfig
from lookalike.settings.head import HeadConfig
from lookalike.settings.loss import (
    LOSS_ALIASES,
    MODEL_PARALLEL_LOSSES,
    LossConfig,
    LossName,
    model_parallel_loss,
)
from lookalike.settings.model import ModelConfig
from lookalike.settings.optim import OptimConfig
from lookalike.settings.run import RunConfig
from lookalike.settings.section import Section
from lookalike.settings.train import TrainConfig

__all__ = [
    "FORMAT_ALIASES", "LOSS_ALIASES", "MODEL_PARALLEL_LOSSES", "DataConfig", "HeadConfig",
    "LossConfig", "LossName", "ModelConfig", "OptimConfig", "RunConfig", "Section", "TrainConfig",
    "model_parallel_loss",
]  # fmt: skip
