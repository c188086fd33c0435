"""Every setting once, by section, documented by the string beneath it."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from lookalike.model import BACKBONE_ALIASES, POOLINGS

LossName = Literal[
    "amsoftmax", "arcface", "cosface", "large_margin_softmax", "sphereface", "softmax",
    "adaface", "adaptive_arcface", "curricularface", "magface",
]  # fmt: skip

LOSS_ALIASES = {
    "AMSoftmax": "amsoftmax",
    "ArcFaceLoss": "arcface",
    "CosFaceLoss": "cosface",
    "LargeMarginSoftmaxLoss": "large_margin_softmax",
    "SphereFaceLoss": "sphereface",
    "Softmax": "softmax",
}
"""The component's names of the losses."""

MODEL_PARALLEL_LOSSES = {
    "Model-parallel AMSoftmax": "amsoftmax",
    "Model-parallel Softmax": "softmax",
}
"""The component's losses that mean a margin and `head.parallel=model` in one."""

FORMAT_ALIASES = {"ClsSourceImageList": "image_list", "ClsSourceItag": "itag"}


class Section(BaseModel):
    """A part of a request: frozen, and without unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=()
    )


class DataConfig(Section):
    """Which images to learn from and how to read them."""

    train: str | None = None
    """What to train on: a path or URI of a list with one `path label` a line, of an iTAG manifest,
    of a CSV or Parquet table with the columns `path,label` and perhaps
    `split,is_query,is_gallery,category,sequence,x_1,y_1,x_2,y_2`, of a Hugging Face data set on
    disk, of a folder with a folder of images for each class, or of WebDataset shards
    (`shards/{0000..0099}.tar`). Required."""
    val: str | None = None
    """The same to measure retrieval on, best with classes that training never sees; the rows of
    `data.val_split` in `data.train` by default. Without one, quality is not measured."""
    train_split: str = "train"
    """Where `data.train` has splits, the one to learn from."""
    val_split: str = "validation"
    """Where the validation data have splits, the one to measure on; `val`, `valid` and `dev` are
    the same."""
    val_fraction: float = Field(0.0, ge=0, lt=1)
    """Hold this part of the training classes (whole classes) out as the validation set."""
    format: Literal["auto", "image_list", "itag", "csv", "parquet", "folder", "webdataset"] = "auto"
    """Format of both; `auto` looks at the content. `ClsSourceImageList` and
    `ClsSourceItag` are accepted."""
    classes: list[str] | str | None = None
    """Class names: a list, or the path or URI of a file with one name a line."""
    num_classes: int | None = Field(None, ge=1)
    """Number of training classes; inferred. With integer labels it may exceed the highest."""
    threads: int = Field(4, ge=0, le=256)
    """Threads that read and decode images, for each worker."""
    max_bad_images: float = Field(0.01, ge=0)
    """How many images may be missing or broken before the run stops: a fraction of the list
    below 1, a count from 1 on."""
    scaled_decode: bool = False
    """Decode large JPEGs at a fraction of their size where the crop allows it: faster from about a
    megapixel on; pixels of training differ by some two grey levels on average."""
    min_crop: float = Field(0.2, gt=0, le=1)
    """Smallest part of an image's area that a random training crop covers."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip in training."""
    color_jitter: float = Field(0.0, ge=0, le=1)
    """Strength of random brightness, contrast and saturation in training; 0 is off."""
    grayscale: float = Field(0.0, ge=0, le=1)
    """Probability that a training image loses its colours."""

    @field_validator("classes", mode="before")
    @classmethod
    def _names_are_text(cls, value: Any) -> Any:
        """YAML reads `[0, 1]` as numbers; as names they are text."""
        if isinstance(value, (list, tuple)):
            return [str(name) if type(name) in (int, float) else name for name in value]
        return value

    @field_validator("format", mode="before")
    @classmethod
    def _format_alias(cls, value: Any) -> Any:
        return FORMAT_ALIASES.get(value, value) if isinstance(value, str) else value


class ModelConfig(Section):
    """The network from pixels to embedding."""

    backbone: str = "resnet50"
    """resnet18 34 50 101, swint_tiny small base, vit_tiny small base, xcit_tiny small base, the
    component's spellings (`resnet_50`, `swin_transformer_tiny`), or any timm model name."""
    pretrained: bool | str = True
    """`true`: timm's weights from its hub; `false`: random; or the path or URI of a `.pth` or
    `.safetensors` file."""
    image_size: int = Field(224, ge=16, le=4096)
    """Side of the square, in pixels, that the network sees."""
    train_size: int | None = Field(None, ge=16, le=4096)
    """Side of the square in training; `image_size` by default. A smaller one trains faster, and
    convolutional backbones often gain from it (Touvron et al., FixRes, 2019)."""
    crop_pct: float | None = Field(None, gt=0, le=1)
    """Part of the resized image that the centre crop keeps in evaluation; by default what timm
    states for the backbone."""
    backbone_dim: int | None = Field(None, ge=1)
    """Channels of the backbone's feature map; inferred, and checked when given."""
    embedding_dim: int = Field(1536, ge=2)
    """Length of the embedding."""
    pooling: str = "gem+avg"
    """How the neck pools the feature map: gem, avg, max, cls (the class token of a ViT or XCiT),
    or several joined by `+`; each gets an equal part of the embedding."""

    @field_validator("backbone")
    @classmethod
    def _backbone_alias(cls, value: str) -> str:
        return BACKBONE_ALIASES.get(value, value)

    @field_validator("pooling")
    @classmethod
    def _known_poolings(cls, value: str) -> str:
        parts = value.split("+")
        wrong = [part for part in parts if part not in POOLINGS]
        if wrong or len(set(parts)) < len(parts):
            raise ValueError(f"takes {', '.join(POOLINGS)}, or several of them joined by '+'")
        return value


class LossConfig(Section):
    """What training minimises."""

    name: LossName = "amsoftmax"
    """The margin: amsoftmax, arcface, cosface, large_margin_softmax, sphereface, softmax, adaface,
    adaptive_arcface, curricularface or magface; the component's names are accepted."""
    margin: float | None = None
    """Margin, in the unit of the loss (cosine for amsoftmax and cosface, degrees for arcface, a
    whole multiplier for large_margin_softmax and sphereface); by default the recommended one."""
    scale: float | None = Field(None, gt=0)
    """Scale of the logits; by default the recommended one."""
    options: dict[str, float] = {}
    """Further numbers of the margin by name, where it has any; by default those of its paper."""
    weight: float = Field(1.0, ge=0)
    """Weight of the metric loss beside the classification loss: the total is
    weight * metric + classification_weight * classification."""
    classification_weight: float | None = Field(None, ge=0)
    """Weight of the classification loss; by default 1 with `head.parallel=data` and 0 (no such
    branch) with `head.parallel=model`, as in the component."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """Label smoothing of the classification loss."""

    @field_validator("name", mode="before")
    @classmethod
    def _name_alias(cls, value: Any) -> Any:
        return LOSS_ALIASES.get(value, value) if isinstance(value, str) else value


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
    where `dtype` or `sample_rate` needs it."""
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


class OptimConfig(Section):
    """The optimizer and its schedule."""

    name: Literal["sgd", "adamw"] = "sgd"
    """sgd (with momentum) or adamw."""
    lr: float = Field(0.03, gt=0)
    """Learning rate after the warm-up."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of sgd; the first beta of adamw."""
    weight_decay: float = Field(1e-4, ge=0)
    """Weight decay; norms and biases have none."""
    backbone_lr_factor: float = Field(1.0, ge=0)
    """Learning rate of the backbone, relative to `lr`."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """How the learning rate falls after the warm-up."""
    warmup_steps: int = Field(100, ge=0)
    """Steps over which the learning rate rises from near zero; a tenth of the run at most."""
    min_lr: float = Field(1e-6, ge=0)
    """Where the cosine schedule ends."""
    clip_grad_norm: float = Field(5.0, ge=0)
    """Largest norm of all gradients together; 0 is off. Large scales need it: ArcFace at its
    recommended 64 fell apart on pretrained weights without."""

    @field_validator("name", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value


class TrainConfig(Section):
    """How long and how to train."""

    batch_size: int = Field(64, ge=1)
    """Images a step, over all workers together."""
    epochs: int = Field(200, ge=1)
    """Passes over the training images."""
    max_steps: int | None = Field(None, ge=1)
    """Stop after so many steps, whatever `epochs` says."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the network; margin and softmax are always fp32. `auto`: bf16 on a GPU that
    has it, fp16 on another GPU, fp32 on a CPU."""
    compile: bool = False
    """Compile the backbone with torch.compile."""
    seed: int = Field(0, ge=0)
    """Everything random follows from it."""
    eval_every: int = Field(1, ge=0)
    """Epochs between measurements on the validation set; 0 measures at the start and end only."""
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
    tensorboard: bool = False
    """Write metrics for TensorBoard too (needs the extra `tensorboard`)."""


class RunConfig(Section):
    """Where the results go and who computes."""

    output: str | None = None
    """Directory for everything the run writes, or its URI in object storage. Required."""
    workdir: str | None = None
    """Where a run with a URI as its output is written on this machine before it is uploaded; by
    default a folder of the user's cache directory."""
    workers: int = Field(1, ge=1)
    """Processes on this machine, started through torchrun."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; `auto` takes CUDA devices when there are any."""
