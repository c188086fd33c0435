"""Which images, and how they are read and changed."""

import os
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from lookalike.config.byte_size import in_bytes
from lookalike.config.section import Section
from lookalike.data import FORMAT_ALIASES


class DataConfig(Section):
    """Which images to learn from and how to read them."""

    train: str | list[str] | None = None
    """What to train on: a path or URI of a list with one `path label` a line, of an iTAG manifest,
    of a CSV, JSON or Parquet table with the columns `path,label` and perhaps
    `split,is_query,is_gallery,category,sequence,camera,x_1,y_1,x_2,y_2`, of a Hugging Face data set
    on disk, of a folder with a folder of images for each class, or of WebDataset shards
    (`shards/{0000..0099}.tar`); several of them as a list or a pattern (`'lists/{a,b}*.txt'`); `-`
    for standard input. Required."""
    val: str | list[str] | None = None
    """The same to measure retrieval on, best with classes that training never sees; the rows of
    `data.val_split` in `data.train` by default. Without one, quality is not measured."""
    train_split: str = "train"
    """Where `data.train` has splits, the one to learn from."""
    val_split: str = "validation"
    """Where the validation data have splits, the one to measure on; `val`, `valid` and `dev` are
    the same."""
    val_fraction: float = Field(0.0, ge=0, lt=1)
    """Hold this part of the training classes (whole classes) out as the validation set."""
    format: Literal[
        "auto", "image_list", "itag", "csv", "json", "parquet", "folder", "webdataset"
    ] = "auto"
    """Format of both; `auto` looks at the content. `ClsSourceImageList` and
    `ClsSourceItag` are accepted."""
    path_column: str | None = None
    """The column of a table that names the images or holds them; by default it is found by its
    name and content."""
    label_column: str | None = None
    """The column of a table that holds the labels; by default it is found by its name."""
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
    """A folder of this machine that keeps images from elsewhere, for all workers and runs that name
    it; an image that is replaced under the same address is not noticed."""
    cache_size: str = "50GB"
    """The most that lies in `data.cache`, as 500MB, 50GB or 2TB."""
    max_image_size: str = "256MB"
    """The largest file of one image that is read, as 20MB or 1GB; a larger one is a bad image."""
    image_timeout: float = Field(120.0, gt=0)
    """Seconds in which an image from elsewhere must have arrived, all tries together; one that has
    not is a bad image."""
    allow_truncated: bool = False
    """Accept JPEGs whose end is missing, and what is missing as grey; else they are bad images."""
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
    augment: list[Any] = []  # noqa: RUF012  # pydantic gives each its own
    """Further augmentations in their order, by name or as `{name: {option: value}}`: auto_contrast,
    color_jitter, equalize, gaussian_blur, grayscale, invert, posterize, rand_augment,
    random_erasing, rotation, sharpness, solarize, trivial_augment, vertical_flip."""

    sampler: Literal["shuffle", "pk", "balanced", "repeat_factor"] = "shuffle"
    """Which images an epoch and a batch hold. `shuffle`: every image once. `pk`: batches of some
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
    """How often each image stands in a batch, augmented anew each time; an epoch has as many
    images as without. A divisor of `train.batch_size`."""

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

    @field_validator("format", mode="before")
    @classmethod
    def _format_alias(cls, value: Any) -> Any:
        return FORMAT_ALIASES.get(value, value) if isinstance(value, str) else value
