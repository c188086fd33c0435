"""The training."""

from typing import Any, Literal

from pydantic import Field, field_validator

from lookalike.config.section import Section


class TrainConfig(Section):
    """How long and how to train."""

    batch_size: int = Field(64, ge=1, le=2**20)
    """Images a step, over all workers together."""
    accumulate: int = Field(1, ge=1)
    """Split each worker's part of a batch into so many micro-batches, for a batch whose
    activations do not fit into memory. The step is that of the whole batch, loss and class weights
    included; only batch norms see a micro-batch at a time. Takes another forward pass."""
    epochs: int = Field(200, ge=1, le=10**9)
    """Passes over the training images."""
    max_steps: int | None = Field(None, ge=1)
    """Stop after so many steps, whatever `epochs` says."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the network; margin and softmax are always fp32. `auto`: bf16 on a GPU that
    multiplies in it (Ampere or newer), fp16 on another GPU, fp32 on a CPU."""
    compile: bool = False
    """Compile the backbone with torch.compile."""
    seed: int = Field(0, ge=0)
    """Everything random follows from it."""
    eval_every: int = Field(1, ge=0)
    """Epochs between measurements on the validation set; 0 measures at the start and end only."""
    early_stopping: int = Field(0, ge=0)
    """Stop when so many measurements in a row bring no better score (MAP@R on the validation set);
    0 is off."""
    log_every: int = Field(10, ge=1)
    """Steps between lines of metrics.jsonl."""
    checkpoint_every: int = Field(10, ge=1)
    """Epochs between checkpoints; the last epoch has one too."""
    checkpoint_every_steps: int | None = Field(None, ge=1)
    """Steps between further checkpoints."""
    checkpoint_minutes: float = Field(15, ge=0)
    """Minutes between further checkpoints, so that long epochs are safe; 0 is off."""
    keep_checkpoints: int = Field(2, ge=1)
    """How many of the latest checkpoints stay on disk, beside the best."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay of an exponential moving average of the weights, which is then what is measured and
    saved as the model; 0 is off."""
    freeze_backbone: bool = False
    """Never train the backbone."""
    freeze_backbone_epochs: int = Field(0, ge=0)
    """Train only neck and head for the first epochs."""
    freeze_batchnorm: bool = False
    """Keep the pretrained statistics of the backbone's batch norms."""
    sync_batchnorm: bool = True
    """Batch norms see the global batch when there are several workers."""
    start_from: str | None = None
    """An earlier run's output directory to begin from: its network, and the class weights of the
    classes that have the same label there; new classes start at random."""
    report: bool = True
    """Write report.html at the end: scores, curves, what queries find, a map of the embedding."""
    loggers: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ()
    """Experiment trackers that take what metrics.jsonl takes, each with the extra of its name:
    `[tensorboard, wandb, mlflow, trackio]`. Servers and keys come from their environment."""
    tensorboard: bool = False
    """The same as `tensorboard` in `train.loggers`."""

    @field_validator("loggers", mode="before")
    @classmethod
    def _one_logger(cls, value: Any) -> Any:
        """One name may stand alone."""
        return [value] if isinstance(value, str) else value
