"""Images and their labels: annotations, decoding, augmentation, loading."""

from collections.abc import Callable

from lookalike import storage
from lookalike.data import csv_table, folder, image_list, itag, parquet, shards, table
from lookalike.data.annotation import read_text
from lookalike.data.record import Record
from lookalike.errors import ConfigError, DataError

# Readers of annotations. To add a format, write one such function and name it here: of text
# files, (uri, its text or None to read it) -> records; of others, uri -> records.
TEXTS: dict[str, Callable[[str, str | None], list[Record]]] = {
    "image_list": image_list.read,
    "itag": itag.read,
    "csv": csv_table.read,
}
OTHERS: dict[str, Callable[[str], list[Record]]] = {
    "folder": folder.read,
    "webdataset": shards.read,
    "parquet": parquet.read,
}
SOURCES = (*TEXTS, *OTHERS)

# The component's names of them.
ALIASES = {"ClsSourceImageList": "image_list", "ClsSourceItag": "itag"}


def read_records(uri: str, format: str = "auto") -> list[Record]:
    """The records of an annotation.

    Args:
        uri: a file, plain or gzipped, a folder, tar shards or Parquet files.
        format: one of `SOURCES`, or a key of `ALIASES`; `auto` takes `.tar` for WebDataset shards,
            `.parquet`, `.arrow` and a folder of them for a table of images, any other folder for
            an image folder, a file that begins with `{` for an iTAG manifest, one whose first line
            names columns for CSV, and any other for an image list.

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
    elif name == "auto" and parquet.is_parquet(uri):
        name = "parquet"
    if name not in ("webdataset", "parquet"):
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
    return TEXTS[_text_format(text) if name == "auto" else name](uri, text)


def _text_format(text: str) -> str:
    if text[:4096].lstrip().startswith("{"):
        return "itag"
    return "csv" if table.is_header(text[:65536].partition("\n")[0]) else "image_list"
