"""Every setting once, by section, documented by the string beneath it."""

from lookalike.config.data_settings import DataConfig
from lookalike.config.head_settings import HeadConfig
from lookalike.config.loss_settings import (
    LOSS_ALIASES,
    MODEL_PARALLEL_LOSSES,
    LossConfig,
    LossName,
    model_parallel_loss,
)
from lookalike.config.model_settings import ModelConfig
from lookalike.config.optim_settings import OptimConfig
from lookalike.config.run_settings import RunConfig
from lookalike.config.section import Section
from lookalike.config.train_settings import TrainConfig

__all__ = [
    "LOSS_ALIASES", "MODEL_PARALLEL_LOSSES", "DataConfig", "HeadConfig",
    "LossConfig", "LossName", "ModelConfig", "OptimConfig", "RunConfig", "Section", "TrainConfig",
    "model_parallel_loss",
]  # fmt: skip
