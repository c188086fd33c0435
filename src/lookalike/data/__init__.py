"""Images and their labels: annotations, decoding, augmentation, loading."""

from collections.abc import Callable

from lookalike import storage
from lookalike.data import folder, image_list, itag, shards
from lookalike.data.annotation import read_text
from lookalike.data.catalog import Record
from lookalike.errors import ConfigError, DataError

# Readers of annotations. To add a format, write one such function and name it here: of text
# files, (uri, its text or None to read it) -> records; of others, uri -> records.
TEXTS: dict[str, Callable[[str, str | None], list[Record]]] = {
    "image_list": image_list.read,
    "itag": itag.read,
}
OTHERS: dict[str, Callable[[str], list[Record]]] = {
    "folder": folder.read,
    "webdataset": shards.read,
}
SOURCES = (*TEXTS, *OTHERS)

# The component's names of them.
ALIASES = {"ClsSourceImageList": "image_list", "ClsSourceItag": "itag"}


def read_records(uri: str, format: str = "auto") -> list[Record]:
    """The records of an annotation.

    Args:
        uri: a file, plain or gzipped, a folder, or tar shards.
        format: one of `SOURCES`, or a key of `ALIASES`; `auto` takes a folder for an image folder,
            `.tar` for WebDataset shards, a file that begins with `{` for an iTAG manifest and any
            other for an image list.

    Raises:
        ConfigError: there is no such format.
        StorageError: it cannot be read.
        DataError: it holds bad lines, or no records, or is of another format.
    """
    name = ALIASES.get(format, format)
    if name != "auto" and name not in SOURCES:
        choices = ", ".join(["auto", *SOURCES, *ALIASES])
        raise ConfigError(f"data.format={format!r} is not one of {choices}")
    if name == "auto" and shards.is_shards(uri):
        name = "webdataset"
    if name == "webdataset":
        return shards.read(uri)
    is_folder = storage.is_folder(uri)
    if name == "auto" and is_folder:
        name = "folder"
    if is_folder != (name == "folder"):
        what = "a folder" if is_folder else "no folder"
        raise DataError(
            f"{storage.public(uri)} is {what}, but data.format={format}; leave data.format out"
        )
    if name in OTHERS:
        return OTHERS[name](uri)
    text = read_text(uri)
    if name == "auto":
        name = "itag" if text[:4096].lstrip().startswith("{") else "image_list"
    return TEXTS[name](uri, text)
