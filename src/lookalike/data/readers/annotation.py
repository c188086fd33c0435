"""The text of annotation files, and how to complain about it: shared by all readers."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar
from urllib.parse import urlsplit

from lookalike import storage
from lookalike.data.decoding.image_formats import ENOUGH, list_fault
from lookalike.errors import DataError

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".heic", ".heif", ".jxl"),
)
"""How the names of images end, in lower case."""

# How programs write a value that is not there: pandas, NumPy, Arrow, JSON, SQL, R, spreadsheets.
_MISSING = frozenset(
    (
        *("nan", "-nan", "+nan", "inf", "-inf", "+inf", "infinity", "-infinity", "<na>", "nat"),
        *("n/a", "#n/a", "#na", "null", "(null)"),
    )
)
# These are also words; only this spelling is a program's.
_MISSING_EXACTLY = frozenset(("", "None", "NONE", "NA"))

_SHOWN = 10  # bad lines described in full; the rest are counted
# C0 without the tab, DEL, C1 and lone surrogates: no file system or terminal takes them well.
_CONTROL = frozenset(map(chr, [*range(0x20), *range(0x7F, 0xA0), *range(0xD800, 0xE000)])) - {"\t"}

T = TypeVar("T")


class Malformed(Exception):
    """What is wrong with a row, and the fix."""


class BadRows:
    """Complaints about rows of lists: the place of each and what is wrong there."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    def add(self, place: str, complaint: str) -> None:
        """Note what is wrong at `place`, as `train.csv:17`."""
        self.found.append((place, complaint))

    def raise_any(self) -> None:
        """Raise one DataError about all of them, if there are any."""
        if self.found:
            raise all_bad(self.found, ": ".join)


def read_text(uri: str) -> str:
    """The text of an annotation file: gunzipped, decoded, without its byte order mark.

    Raises:
        StorageError: the file cannot be read.
        DataError: it is not UTF-8 text (the error names the line, or says what the file is), or a
            damaged gzip file.
    """
    return decoded(storage.read_bytes(uri), storage.public(uri))


def decoded(content: bytes, place: str) -> str:
    """The text in the content of an annotation file: see `read_text`.

    Raises:
        DataError: it is not UTF-8 text (the error names the line, or says what the file is), or a
            damaged gzip file.
    """
    if content[:2] == b"\x1f\x8b":  # no UTF-8 text begins so
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{place}: damaged gzip file ({error}); write it again") from None
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{place}: UTF-16 text; save the file as UTF-8")
    if fault := list_fault(content[:ENOUGH]):
        raise DataError(f"{place}: no list, but {fault}")
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{place}:{line}: byte 0x{content[error.start]:02x} is not UTF-8 text;"
            " save the file as UTF-8"
        ) from None


def lines(text: str) -> Iterator[str]:
    r"""Lines that end in `\n` or `\r\n` only, with their ends.

    One at a time: a list of all would hold the text a second time. Unicode's other line ends
    are ordinary characters here.
    """
    begin = 0
    while begin < len(text):
        end = text.find("\n", begin) + 1 or len(text)
        yield text[begin:end]
        begin = end


def unusable(text: str) -> bool:
    """Whether `text` holds a character that neither a path nor a label may hold."""
    return not text.isprintable() and not _CONTROL.isdisjoint(text)


def unusable_name(name: str) -> str:
    """What is wrong with the name of a file that is `unusable`, and the fix, after the name."""
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        return "is a name that is not UTF-8; rename it, or set PYTHONUTF8=1 where the locale is not"
    return "holds a control character; rename it"


def malformed(uri: str) -> bool:
    """Whether `uri` is a URI that cannot be taken apart, as `http://[cat`."""
    if "://" in uri and not (uri.isascii() and "[" not in uri and "]" not in uri):
        try:
            urlsplit(uri)
        except ValueError:
            return True
    return False


def shortest(label: str) -> str:
    """`label`, or its shortest form if it is a non-negative integer: `007` is `7`."""
    return (label.lstrip("0") or "0") if label[:1] == "0" and is_integer(label) else label


def is_missing(label: str) -> bool:
    """Whether `label` is empty or how programs write a missing value: `nan`, `null`, `None`."""
    return label in _MISSING_EXACTLY or (len(label) <= 9 and label.lower() in _MISSING)


def checked_label(text: str) -> str:
    """A label as written, integers in their shortest form; `3.0`, as pandas writes them, is `3`.

    Raises:
        Malformed: there is none, or it holds a control character.
    """
    label = text.strip()
    if is_missing(label):
        raise Malformed(
            f"label {quoted(label)} is a missing value; fill it in or remove the row (a class "
            "cannot have this name)"
            if label
            else "no label; fill it in or remove the row"
        )
    if unusable(label):
        raise Malformed(f"label {quoted(label)} holds a control character; remove it")
    whole, dot, rest = label.partition(".")
    if dot and rest and not rest.strip("0") and whole.removeprefix("-").isdigit():
        label = whole if whole.strip("-0") else "0"
    return shortest(label)


def label_in(text: str, labelled: bool) -> str:
    """A label; "" where there is none and none is needed.

    Raises:
        Malformed: it is no label, and one is needed.
    """
    return "" if not labelled and is_missing(text.strip()) else checked_label(text)


def quoted(text: str) -> str:
    """A value as messages show it: quoted, without secrets of addresses, control characters
    escaped, cut after 80 characters.
    """
    text = storage.without_secrets(text)
    return repr(text if len(text) <= 80 else text[:77] + "...")


def all_bad(bad: Sequence[T], describe: Callable[[T], str]) -> DataError:
    """One error about all of `bad`: the first ten described in full, the rest counted."""
    lines = [describe(item) for item in bad[:_SHOWN]]
    if len(bad) > _SHOWN:
        lines.append(f"and {len(bad) - _SHOWN:,} more")
    return DataError("\n".join(lines))


def is_integer(label: str) -> bool:
    """Whether `label` is a non-negative integer, of any length."""
    return label.isascii() and label.isdigit()
