"""Which images, and how they are read and changed."""

from typing import Any, Literal

from pydantic import Field, field_validator

from lookalike.settings.section import Section
from lookalike.settings.size import in_bytes

FORMAT_ALIASES = {"ClsSourceImageList": "image_list", "ClsSourceItag": "itag"}


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
    requests: int = Field(128, ge=1, le=1024)
    """Requests for images in object storage or on web servers at a time, for each worker; images
    on this machine's disks need none."""
    cache: str | None = None
    """A folder of this machine that keeps images from elsewhere, for all workers and runs that name
    it; an image that is replaced under the same address is not noticed."""
    cache_size: str = "50GB"
    """The most that lies in `data.cache`, as 500MB, 50GB or 2TB."""
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

    @field_validator("cache_size", mode="before")
    @classmethod
    def _cache_size(cls, value: Any) -> Any:
        if isinstance(value, str | int) and not isinstance(value, bool):
            in_bytes(str(value))
            return str(value)
        return value

    @field_validator("format", mode="before")
    @classmethod
    def _format_alias(cls, value: Any) -> Any:
        return FORMAT_ALIASES.get(value, value) if isinstance(value, str) else value
