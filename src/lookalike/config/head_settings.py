"""The class weights."""

from typing import Any, Literal

from pydantic import Field, field_validator

from lookalike.config.section import Section


class HeadConfig(Section):
    """Where the class weights live, and how the loss over them is computed."""

    parallel: Literal["data", "model"] = "data"
    """`data`: every worker holds all class weights; `model`: each holds its share of them."""
    lr_factor: float = Field(1.0, gt=0)
    """Learning rate of the class weights, relative to `optim.lr`."""
    centres: int = Field(1, ge=1, le=64)
    """Weights a class; the nearest one counts (sub-centre ArcFace uses 3). For classes of several
    looks, or with wrong labels among them."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the products between embeddings and class weights; sums, margin and softmax
    are fp32. `auto`: bf16 where `train.precision` is bf16 and the device has products in bf16 that
    are faster (any GPU; a CPU with AMX), else fp32."""
    fused_update: bool | None = None
    """Update the class weights a chunk at a time in the backward pass, so that their gradient
    never exists: a third less memory. `optim.clip_grad_norm` then leaves them out. By default
    where `dtype` or `sample_rate` needs it, and where these gradients would take 2 GB or more (a
    million classes of 512 dimensions)."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Class weights and their optimizer state in memory; bf16 halves them, with stochastic
    rounding."""
    stash: float | None = Field(None, ge=0)
    """Memory for logits that wait for the backward pass instead of being computed again, as a
    share of class weights and momentum. By default 0.035 on a CPU, where this pays, and 0 on a
    GPU; `train.batch_size` / (2 x `model.embedding_dim`) keeps all of them, which saves a quarter
    of the products."""
    sample_rate: float = Field(1.0, gt=0, le=1)
    """Part of the classes that each step looks at, besides those of the batch."""
    filter_above: float | None = Field(None, gt=-1, le=1)
    """Leave out other classes whose cosine to the image is above this: with noisy labels they are
    often the same thing under another name (0.4 in Partial FC's paper)."""

    @field_validator("parallel", mode="before")
    @classmethod
    def _parallel_alias(cls, value: Any) -> Any:
        names = {
            "Data-parallel metric learning": "data",
            "Model-parallel metric learning": "model",
            "DataParallelMetricLearning": "data",
            "ModelParallelMetricLearning": "model",
        }
        return names.get(value, value) if isinstance(value, str) else value
