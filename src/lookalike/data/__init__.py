"""Images and their labels: annotations, decoding, augmentation, loading."""

from typing import Protocol

from lookalike import storage
from lookalike.data import csv_table, folder, image_list, itag, parquet, shards, table
from lookalike.data.annotation import read_text
from lookalike.data.record import Record
from lookalike.data.skipped import Skipped
from lookalike.errors import ConfigError, DataError


class ReadText(Protocol):
    """Reads an annotation that is text.

    `text` is its content, None to read it. Without `labelled`, images without a label are
    welcome, and have the label "".
    """

    def __call__(self, uri: str, text: str | None = None, *, labelled: bool = True) -> list[Record]:
        """The records."""
        ...


class ReadOther(Protocol):
    """Reads any other annotation."""

    def __call__(self, uri: str, *, labelled: bool = True) -> list[Record]:
        """The records."""
        ...


# To add a format, write one such function and name it here.
TEXTS: dict[str, ReadText] = {
    "image_list": image_list.read,
    "itag": itag.read,
    "csv": csv_table.read,
}
OTHERS: dict[str, ReadOther] = {
    "folder": folder.read,
    "webdataset": shards.read,
    "parquet": parquet.read,
}
SOURCES = (*TEXTS, *OTHERS)

# The component's names of them.
ALIASES = {"ClsSourceImageList": "image_list", "ClsSourceItag": "itag"}


def read_records(
    uri: str,
    format: str = "auto",
    *,
    labelled: bool = True,
    skipped: list[Skipped] | None = None,
) -> list[Record]:
    """The records of an annotation.

    Args:
        uri: a file, plain or gzipped, a folder or a ZIP archive, tar shards or Parquet files.
        format: one of `SOURCES`, or a key of `ALIASES`; `auto` takes `.tar` for WebDataset shards,
            `.parquet`, `.arrow` and a folder of them for a table of images, any other folder for
            an image folder, a file that begins with `{` for an iTAG manifest, one whose first line
            names columns for CSV, and any other for an image list.
        labelled: an image without a label is a mistake; else its label is "".
        skipped: takes what is skipped of an image folder, by kind.

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
    if name == "folder":
        return folder.read(uri, labelled=labelled, skipped=skipped)
    if name in OTHERS:
        return OTHERS[name](uri, labelled=labelled)
    text = read_text(uri)
    name = _text_format(text, labelled) if name == "auto" else name
    return TEXTS[name](uri, text, labelled=labelled)


def _text_format(text: str, labelled: bool) -> str:
    if text[:4096].lstrip().startswith("{"):
        return "itag"
    header = text[:65536].partition("\n")[0]
    return "csv" if table.is_header(header, labelled=labelled) else "image_list"
