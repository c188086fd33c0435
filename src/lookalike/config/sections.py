"""Every setting once, by section, documented by the string beneath it."""

import logging
import os
from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import (
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from lookalike.config.duration import seconds_of
from lookalike.config.section_base import Section, setting
from lookalike.data import FORMAT_ALIASES
from lookalike.model import (
    BACKBONE_ALIASES,
    BACKBONES,
    CURRENT_BACKBONES,
    POOLINGS,
    TORCHVISION_NAMES,
)
from lookalike.storage.byte_size import in_bytes

_log = logging.getLogger(__name__)

LossName = Literal[
    "amsoftmax", "arcface", "cosface", "large_margin_softmax", "sphereface", "softmax",
    "adaface", "adaptive_arcface", "curricularface", "magface",
    "proxy_anchor", "multi_similarity", "supcon", "smooth_ap", "recall_at_k",
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

_PAPER_NAMES = {
    "additive_margin_softmax": "amsoftmax",
    "lmcl": "cosface",
    "additive_angular_margin": "arcface",
    "aam_softmax": "arcface",
    "l_softmax": "large_margin_softmax",
    "a_softmax": "sphereface",
    "cross_entropy": "softmax",
    "ms": "multi_similarity",
    "supervised_contrastive": "supcon",
}
_LOSSES = {name: name for name in get_args(LossName)} | LOSS_ALIASES | _PAPER_NAMES
_LOSSES |= {f"{name}_loss": ours for name, ours in _LOSSES.items()}

_PARALLEL = {
    "Data-parallel metric learning": "data",
    "Model-parallel metric learning": "model",
    "DataParallelMetricLearning": "data",
    "ModelParallelMetricLearning": "model",
}


class DataConfig(Section):
    """Images, and their reading, sampling and augmentation."""

    train: str | list[str] | None = setting(None, popular=True)
    """Training images: a path or URI of a list with one `path label` a line, of an iTAG manifest,
    of a CSV, JSON or Parquet table with the columns `path,label` and perhaps
    `split,is_query,is_gallery,category,sequence,camera,x_1,y_1,x_2,y_2`, of a Hugging Face data set
    on disk, of a folder with a folder of images for each class, or of WebDataset shards
    (`shards/{0000..0099}.tar`), of an MXNet RecordIO file (`.rec`); several of them as a list or a
    pattern (`'lists/{a,b}*.txt'`); `-` for standard input. Required."""
    val: str | list[str] | None = setting(None, popular=True)
    """The same to measure retrieval on, best with classes that training never sees; the rows of
    `data.val_split` in `data.train` by default. Without one, quality is not measured."""
    train_split: str = "train"
    """Split of `data.train` to learn from, where it has splits."""
    val_split: str = "validation"
    """Split of the validation data to measure on, where they have splits; `val`, `valid` and `dev`
    are the same."""
    val_fraction: float = setting(0.0, popular=True, ge=0, lt=1)
    """Hold this part of the training classes (whole classes) out as the validation set."""
    format: Literal[
        "auto", "image_list", "itag", "csv", "json", "parquet", "folder", "webdataset", "recordio"
    ] = setting("auto", names=FORMAT_ALIASES)
    """Format of both; `auto` looks at the content. `ClsSourceImageList` and
    `ClsSourceItag` are accepted."""
    path_column: str | None = None
    """The column of a table that names the images or holds them; by default it is found by its
    name and content."""
    label_column: str | None = None
    """The column of a table that holds the labels; by default it is found by its name."""
    label_separator: str | None = Field(None, min_length=1)
    """The text between the labels of an image that may have several, as `|` in `a.jpg cat|pet`;
    lists of labels in JSON, Parquet and manifests are then taken too. By default an image has one
    label."""
    hierarchy: str | None = None
    """Coarser classes above those of the labels, at which retrieval is measured too: columns of a
    table, the finest first (`genus,family`), or the path or URI of a file (`.txt`, `.csv`, `.tsv`)
    with one `label genus family` a line. See `loss.hierarchy_weight`."""
    weights: str | None = None
    """Weights of the training images in the loss, of which only ratios count: the column of a table
    that holds them, or the path or URI of a file (`.txt`, `.csv`, `.tsv`) with one `label weight` a
    line. An image with several labels has the mean of theirs."""
    image_root: str | None = None
    """The folder or URI where relative paths of lists and tables start, by default that of the
    list; names without a suffix are then looked up in it."""
    classes: list[str] | str | None = None
    """Class names: a list, or the path or URI of a file with one name a line."""
    num_classes: int | None = Field(None, ge=1, le=10**8)
    """Number of training classes; inferred. With integer labels it may exceed the highest."""
    threads: int = Field(4, ge=0, le=256)
    """Threads that read and decode images, for each worker."""
    requests: int = Field(128, ge=1, le=1024)
    """Requests for images in object storage or on web servers at a time, for each worker; images
    on this machine's disks need none."""
    cache: str | None = None
    """A folder of this machine that keeps remote images, for all workers and runs that name
    it; an image that is replaced under the same address is not noticed."""
    cache_size: str = "50GB"
    """Largest size of `data.cache`, as 500MB, 50GB or 2TB."""
    max_image_size: str = "256MB"
    """The largest file of one image that is read, as 20MB or 1GB; a larger one is a bad image."""
    image_timeout: float = Field(120.0, gt=0)
    """Seconds in which an image from elsewhere must have arrived, all tries together; one that has
    not is a bad image."""
    allow_truncated: bool = False
    """Accept JPEGs whose end is missing, and what is missing as grey; else they are bad images."""
    max_bad_images: float = Field(0.01, ge=0)
    """Limit of missing or broken images, at which the run stops: a fraction of the list below 1, a
    count from 1 on."""
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
    augment: list[Any] = setting([], popular=True)
    """Further augmentations in their order, by name or as `{name: {option: value}}`: auto_contrast,
    color_jitter, equalize, gaussian_blur, grayscale, invert, posterize, rand_augment,
    random_erasing, rotation, sharpness, solarize, trivial_augment, vertical_flip."""

    sampler: Literal["auto", "shuffle", "pk", "balanced", "repeat_factor"] = "auto"
    """Images of an epoch and a batch. `auto`: `pk` for losses that compare the images of a batch
    with each other, else `shuffle`. `shuffle`: every image once. `pk`: batches of some
    classes with `data.images_per_class` images each. `balanced`: small classes more often, by
    `data.sampling_power`. `repeat_factor`: images of small classes several times, by
    `data.repeat_threshold`."""
    images_per_class: int | None = Field(None, ge=1)
    """Images of a class in a batch with `data.sampler=pk`; 4 by default. A divisor of
    `train.batch_size`."""
    sampling_power: float | None = Field(None, ge=0, le=1)
    """With `data.sampler=balanced` a class of n images has a share of an epoch proportional to
    n to this power: 1 as in the list, 0 equal shares; 0.5 by default."""
    repeat_threshold: float | None = Field(None, gt=0)
    """With `data.sampler=repeat_factor` classes with fewer images are repeated: a share of all
    images below 1, a number of images from 1 on; by default the mean number of images a class."""
    repeats: int = Field(1, ge=1)
    """Copies of each image in a batch, augmented anew each time; an epoch has as many images as
    without. A divisor of `train.batch_size`."""

    @field_validator("train", "val", mode="before")
    @classmethod
    def _places_are_text(cls, value: Any) -> Any:
        """Paths as text; a single one of a list alone."""
        if isinstance(value, (list, tuple)):
            texts = [
                os.fspath(place) if isinstance(place, os.PathLike) else place for place in value
            ]
            return texts[0] if len(texts) == 1 and isinstance(texts[0], str) else texts or None
        return os.fspath(value) if isinstance(value, os.PathLike) else value

    @field_validator("classes", mode="before")
    @classmethod
    def _names_are_text(cls, value: Any) -> Any:
        """YAML reads `[0, 1]` as numbers; as names they are text."""
        if isinstance(value, (list, tuple)):
            return [str(name) if type(name) in (int, float) else name for name in value]
        return value

    @field_validator("augment", mode="before")
    @classmethod
    def _names_with_options(cls, value: Any) -> Any:
        """A list of names, and of names with a mapping of options; one name may stand alone."""
        entries = value if isinstance(value, (list, tuple)) else [value]
        found: list[Any] = []
        for entry in entries:
            if isinstance(entry, Mapping) and len(entry) == 1:
                [(name, options)] = entry.items()
                if isinstance(name, str) and isinstance(options or {}, Mapping):
                    found.append({name: dict(options)} if options else name)
                    continue
            if not isinstance(entry, str):
                raise ValueError(
                    "is not a list of names and {name: {option: value}}; write e.g. "
                    "[trivial_augment, {random_erasing: {p: 0.25}}]"
                )
            found.append(entry)
        return found

    @field_validator("cache_size", "max_image_size", mode="before")
    @classmethod
    def _sizes(cls, value: Any) -> Any:
        if isinstance(value, str | int) and not isinstance(value, bool):
            in_bytes(str(value))
            return str(value)
        return value


class ModelConfig(Section):
    """The network from pixels to embedding."""

    backbone: str = setting(
        "resnet50",
        names={name: name for name in (*BACKBONES, *CURRENT_BACKBONES)}
        | BACKBONE_ALIASES
        | TORCHVISION_NAMES,
        popular=True,
    )
    """resnet18 34 50 101, swint_tiny small base, vit_tiny small base, xcit_tiny small base, the
    component's spellings (`resnet_50`, `swin_transformer_tiny`), siglip2_base, dinov2_small,
    dinov3_base and the other names that `lookalike backbones` lists, any timm model name,
    `hf-hub:OWNER/REPOSITORY`, or `local-dir:FOLDER` with the same files."""
    pretrained: bool | str = setting(True, popular=True)
    """`true`: timm's weights from its hub; `false`: random; or the path or URI of a `.pth` or
    `.safetensors` file."""
    image_size: int | tuple[int, int] = setting(224, popular=True)
    """Side of the square, in pixels, that the network sees; or `[height, width]`, as `[256,128]`
    for people."""
    train_size: int | tuple[int, int] | None = None
    """The same in training; `image_size` by default. A smaller one trains faster, and
    convolutional backbones often gain from it (Touvron et al., FixRes, 2019)."""
    crop_pct: float | None = Field(None, ge=0.05, le=1)
    """Part of the resized image that the centre crop keeps in evaluation; by default what timm
    states for the backbone."""
    backbone_dim: int | None = Field(None, ge=1)
    """Channels of the backbone's feature map; inferred, and checked when given."""
    embedding_dim: int = setting(1536, popular=True, ge=2, le=2**16)
    """Length of the embedding."""
    init_from_features: bool = False
    """Begin with the principal axes of the frozen backbone's features as the neck, and the mean
    embedding of each class as its weight: the start then retrieves like the backbone alone."""
    pooling: str = "gem+avg"
    """Pooling of the feature map: gem, avg, max, cls (the class token of a ViT or XCiT), map (the
    attention pool of SigLIP and PE), quarters (averages over the four quarters of an earlier map,
    for things in the same place), or several joined by `+`; each gets an equal part
    of the embedding."""
    quarters_stride: int | None = Field(None, ge=1, le=1024)
    """Stride in pixels of the map whose quarters are averaged; by default that of the deepest one
    with eight places a side at `image_size`, short of the last size."""
    gradient_checkpointing: bool = False
    """Compute the backbone's activations again in the backward pass rather than keep them: much
    less memory, for about a third more time."""
    lora_rank: int = Field(0, ge=0, le=1024)
    """Learn matrices of this rank beside the linear layers of the backbone, whose own weights stay
    (LoRA): less memory, for ViT, Swin and ConvNeXt; 8 to 16 are usual, 0 is off. The saved model
    has them merged into its weights."""

    @field_validator("image_size", "train_size", mode="before")
    @classmethod
    def _size(cls, value: Any) -> Any:
        # Whether there must be one is the field's own matter.
        from lookalike.data.image_size import read_size  # brings NumPy, which --help needs not

        return None if value is None else read_size(value)

    @field_validator("pooling")
    @classmethod
    def _known_poolings(cls, value: str) -> str:
        parts = value.split("+")
        wrong = [part for part in parts if part not in POOLINGS]
        if wrong or len(set(parts)) < len(parts):
            raise ValueError(f"takes {', '.join(POOLINGS)}, or several of them joined by '+'")
        return value


class LossConfig(Section):
    """The loss."""

    name: LossName = setting("amsoftmax", names=_LOSSES, popular=True)
    """The margin: amsoftmax, arcface, cosface, large_margin_softmax, sphereface, softmax, adaface,
    adaptive_arcface, curricularface or magface; or a loss that compares the images of a batch:
    proxy_anchor (with class weights), multi_similarity, supcon, smooth_ap or recall_at_k (with
    each other). The names of Alibaba PAI's component are accepted."""
    margin: float | None = setting(None, popular=True)
    """Margin, in the unit of the loss (cosine for amsoftmax, cosface and proxy_anchor, degrees for
    arcface, a whole multiplier for large_margin_softmax and sphereface). Not for losses that have
    none."""
    scale: float | None = setting(None, popular=True, gt=0)
    """Scale of the logits. Not for losses that have none."""
    options: dict[str, float] = {}  # noqa: RUF012  # pydantic gives each its own
    """Further numbers of the loss by name, where it has any; by default those of its paper."""
    memory: int = Field(0, ge=0, le=2**24)
    """Embeddings of earlier batches with which multi_similarity, supcon, smooth_ap and recall_at_k
    compare images too (cross-batch memory); 0 for none."""
    nested_dims: tuple[int, ...] = ()
    """Also learn from the first dimensions of the embedding alone, as `[64, 128]`, each with
    class weights of its own: such an embedding may be cut to these lengths (Kusupati et al.,
    Matryoshka Representation Learning, 2022)."""
    weight: float = Field(1.0, ge=0)
    """Weight of the metric loss beside the classification loss: the total is
    weight * metric + classification_weight * classification."""
    classification_weight: float | None = Field(None, ge=0)
    """Weight of the classification loss; by default 1 with `head.parallel=data` and 0 (no such
    branch) with `head.parallel=model`, as in Alibaba PAI's component, and 0 with losses that
    compare the images of a batch."""
    hierarchy_weight: float = Field(0.0, ge=0)
    """Weight of the loss on the classes of `data.hierarchy`, beside that on the labels: the metric
    loss on the same embedding once more, with the coarser classes, as the mean over the levels; 0
    for none."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """Label smoothing of the classification loss."""

    @field_validator("nested_dims")
    @classmethod
    def _ascending(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if list(value) != sorted(set(value)) or any(dim < 2 for dim in value):
            raise ValueError("takes ascending numbers of dimensions, from 2 on, as [64, 128]")
        return value

    def describe(self) -> str:
        """Loss and its numbers in words: `arcface, margin 28.6, scale 64`."""
        words: list[str] = [self.name]
        words += [] if self.margin is None else [f"margin {self.margin:g}"]
        words += [] if self.scale is None else [f"scale {self.scale:g}"]
        words += [f"{name} {value:g}" for name, value in self.options.items()]
        words += [f"memory of {self.memory:,} embeddings"] if self.memory else []
        return ", ".join(words)


class HeadConfig(Section):
    """Class weights, and the computation of the loss over them."""

    parallel: Literal["data", "model"] = setting("data", names=_PARALLEL, popular=True)
    """`data`: every worker holds all class weights; `model`: each holds its share of them."""
    lr_factor: float = Field(1.0, gt=0)
    """Learning rate of the class weights, relative to `optim.lr`."""
    centres: int = Field(1, ge=1, le=64)
    """Sub-centres per class, of which the nearest is used (sub-centre ArcFace: 3). For classes of
    several looks, or with wrong labels among them."""
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
    sample_rate: float = Field(1.0, gt=0, le=1)
    """Fraction of the negative classes that each step samples."""
    filter_above: float | None = Field(None, gt=-1, le=1)
    """Leave out other classes whose cosine to the image is above this: with noisy labels they are
    often the same thing under another name (0.4 in Partial FC's paper)."""

    @model_validator(mode="before")
    @classmethod
    def _without_stash(cls, values: Any) -> Any:
        """Runs of earlier versions saved `stash`, nearly always null."""
        if not isinstance(values, Mapping) or "stash" not in values:
            return values
        if values["stash"] is not None:
            _log.warning(
                "head.stash=%s is ignored: the head itself chooses how many logits it keeps for "
                "the backward pass, and the results are the same; delete the line",
                values["stash"],
            )
        return {key: value for key, value in values.items() if key != "stash"}


class OptimConfig(Section):
    """The optimizer and its schedule."""

    name: Literal["sgd", "adamw"] = setting("sgd", popular=True)
    """sgd (with momentum) or adamw."""
    lr: float = setting(0.03, popular=True, gt=0)
    """Learning rate after the warm-up."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of sgd; the first beta of adamw."""
    weight_decay: float = Field(1e-4, ge=0)
    """Weight decay; norms and biases have none."""
    backbone_lr_factor: float = Field(1.0, ge=0)
    """Learning rate of the backbone, relative to `lr`."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Learning rate of each layer of the backbone, relative to that of the layer behind it: 0.65 to
    0.8 are usual for large pretrained transformers; 1 is off."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Course of the learning rate after the warm-up."""
    warmup_steps: int = Field(100, ge=0)
    """Steps over which the learning rate rises from near zero; a tenth of the run at most."""
    min_lr: float = Field(1e-6, ge=0)
    """Last learning rate of the cosine schedule."""
    clip_grad_norm: float = Field(5.0, ge=0)
    """Largest norm of all gradients together; 0 is off. Large scales need it: ArcFace at its
    recommended 64 diverged on pretrained weights without."""


class TrainConfig(Section):
    """Length, precision, evaluation and checkpoints of training."""

    recipe: str = setting("auto", popular=True)
    """Choice of the settings that a request does not give: `auto` chooses by the data, the network
    and the machine, and gives its reasons; `component` takes the defaults of this table, which are
    those of Alibaba PAI's component; or a YAML file of settings."""
    batch_size: int = setting(64, popular=True, ge=1, le=2**20)
    """Images a step, over all workers together."""
    accumulate: int = Field(1, ge=1)
    """Split each worker's part of a batch into this many micro-batches, for a batch whose
    activations do not fit into memory. The step is that of the whole batch, loss and class weights
    included; only batch norms see a micro-batch at a time. Takes another forward pass."""
    epochs: int = setting(200, popular=True, ge=1, le=10**9)
    """Passes over the training images."""
    time_budget: str | None = setting(None, popular=True)
    """Time that the command may take, as 90s, 30m or 8h, with measurements, calibration and report:
    sets `epochs` by the speed of some steps on this machine."""
    max_steps: int | None = Field(None, ge=1)
    """Stop after this many steps, before `epochs` are over."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field("auto")
    """Arithmetic of the network; margin and softmax are always fp32. `auto`: bf16 on a GPU that
    multiplies in it (Ampere or newer), fp16 on another GPU, fp32 on a CPU."""
    compile: bool = False
    """Compile the backbone with torch.compile."""
    seed: int = Field(0, ge=0)
    """Everything random follows from it."""
    eval_every: int = Field(1, ge=0)
    """Epochs between measurements on the validation set; 0 measures at the start and end only."""
    early_stopping: int = Field(0, ge=0)
    """Stop after this many measurements in a row without a better score (MAP@R on the validation
    set); 0 is off."""
    log_every: int = Field(10, ge=1)
    """Steps between lines of metrics.jsonl."""
    checkpoint_every: int = Field(10, ge=1)
    """Epochs between checkpoints; the last epoch has one too."""
    checkpoint_every_steps: int | None = Field(None, ge=1)
    """Steps between further checkpoints."""
    checkpoint_minutes: float = Field(15, ge=0)
    """Minutes between further checkpoints, so that long epochs are safe; 0 is off."""
    keep_checkpoints: int = Field(2, ge=1)
    """Number of the latest checkpoints that stay on disk, beside the best."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay of an exponential moving average of the weights, which is then what is measured and
    saved as the model; 0 is off."""
    interpolate: bool | float = False
    """At the end, measure the weights at 0, 1/4, 1/2, 3/4 and 1 of the way from the start to the
    end on the validation set, and keep the best of those that are not below the start in Recall@1
    or MAP@R, or half-way where few queries show no gain (Wortsman et al., Robust fine-tuning of
    zero-shot models, 2022). A number, as 0.5, is the part of the way that is kept, also without a
    validation set; `true` has no effect without one."""
    average_last: float = Field(0.0, ge=0, le=1)
    """Measure and save an average of equal weights over this last part of the steps, as 0.3, in
    place of the weights; until then the weights themselves are measured. 0 is off."""
    shard_backbone: bool = False
    """Share the network's weights, gradients and optimizer state out over the workers (FSDP2), for
    a backbone that does not fit into the memory of one, as a ViT-g. Takes more communication; with
    one worker there is nothing to share."""
    freeze_backbone: bool = False
    """Never train the backbone."""
    freeze_backbone_epochs: int = Field(0, ge=0)
    """Train only neck and head for the first epochs."""
    cache_features: bool | str = False
    """Train on stored features while the backbone is frozen: each image passes through it once,
    without augmentation, and epochs take seconds. `true`: stored in the run's directory; or a
    folder of this machine, for all runs that name it."""
    freeze_batchnorm: bool = False
    """Keep the pretrained statistics of the backbone's batch norms."""
    sync_batchnorm: bool = True
    """Batch norms see the global batch when there are several workers."""
    start_from: str | None = None
    """An earlier run's output directory to begin from: its network, in place of the weights of
    `model.pretrained`, and the class weights of the classes that have the same label there; new
    classes start at random."""
    report: bool = True
    """Write report.html at the end: scores, curves, what queries find, a map of the embedding."""
    loggers: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ()
    """Experiment trackers that take what metrics.jsonl takes, each with the extra of its name:
    `[tensorboard, wandb, mlflow, trackio]`. Servers and keys come from their environment."""
    tensorboard: bool = False
    """The same as `tensorboard` in `train.loggers`."""

    @field_validator("recipe")
    @classmethod
    def _recipe(cls, value: str) -> str:
        if value not in ("auto", "component") and not value.endswith((".yaml", ".yml")):
            raise ValueError("is neither auto nor component nor a file ending in .yaml")
        return value

    @field_validator("interpolate", mode="wrap")
    @classmethod
    def _part_of_the_way(cls, value: Any, parse: ValidatorFunctionWrapHandler) -> bool | float:
        try:
            part: bool | float = parse(value)
        except ValidationError:
            part = 0.0
        if not isinstance(part, bool) and not 0 < part < 1:
            raise ValueError("is not a number between 0 and 1, nor true or false")
        return part

    @field_validator("time_budget", mode="before")
    @classmethod
    def _time(cls, value: Any) -> Any:
        if value is not None and seconds_of(str(value)) <= 0:
            raise ValueError("is not a time above 0; write e.g. 30m")
        return value

    @field_validator("loggers", mode="before")
    @classmethod
    def _one_logger(cls, value: Any) -> Any:
        """One name may stand alone."""
        return [value] if isinstance(value, str) else value


class RunConfig(Section):
    """Output directory, workers and device."""

    output: str | None = setting(None, popular=True)
    """Directory for everything the run writes, or its URI in object storage. Required."""
    workdir: str | None = None
    """Folder of each machine for a run with a URI as its output, before the upload; by default in
    the user's cache directory."""
    workers: int = setting(1, popular=True, ge=1, le=1024)
    """Processes on this machine, started through torchrun."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the computation; `auto` takes CUDA devices when there are any."""
    timeout: str = "30m"
    """Time without an answer, as 90s or 30m, after which a worker takes another one for lost and
    ends."""

    @field_validator("timeout", mode="before")
    @classmethod
    def _timeout(cls, value: Any) -> Any:
        if seconds_of(str(value)) < 1:
            raise ValueError("is less than a second; write e.g. 30m")
        return value
