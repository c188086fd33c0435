"""Images and their labels: annotations, decoding, augmentation, loading."""

from collections.abc import Callable

from lookalike.data import image_list, itag
from lookalike.data.annotation import read_text
from lookalike.data.catalog import Record
from lookalike.errors import ConfigError

# Readers of annotations: (uri, its text or None to read it) -> records. To add a format, write
# one such function and name it here.
SOURCES: dict[str, Callable[[str, str | None], list[Record]]] = {
    "image_list": image_list.read,
    "itag": itag.read,
}

# The component's names of them.
ALIASES = {"ClsSourceImageList": "image_list", "ClsSourceItag": "itag"}


def read_records(uri: str, format: str = "auto") -> list[Record]:
    """The records of an annotation file.

    Args:
        uri: the file, plain or gzipped.
        format: a key of `SOURCES` or `ALIASES`; `auto` takes a file that begins with `{` for an
            iTAG manifest and any other for an image list.

    Raises:
        ConfigError: there is no such format.
        StorageError: the file cannot be read.
        DataError: it holds bad lines, or no records.
    """
    name = ALIASES.get(format, format)
    if name != "auto" and name not in SOURCES:
        choices = ", ".join(["auto", *SOURCES, *ALIASES])
        raise ConfigError(f"data.format={format!r} is not one of {choices}")
    text = read_text(uri)
    if name == "auto":
        name = "itag" if text[:4096].lstrip().startswith("{") else "image_list"
    return SOURCES[name](uri, text)
