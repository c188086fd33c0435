"""An annotation and its options; parsing of its text and labels; errors of its rows."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TypeVar
from urllib.parse import urlsplit

from lookalike import storage
from lookalike.data.decoding.image_formats import ENOUGH, list_fault
from lookalike.data.readers.skipped_files import Skipped
from lookalike.data.record_table import RecordTable
from lookalike.errors import DataError, StorageError

# Spellings of a missing value in pandas, NumPy, Arrow, JSON, SQL, R and spreadsheets.
_MISSING = frozenset(
    (
        *("nan", "-nan", "+nan", "inf", "-inf", "+inf", "infinity", "-infinity", "<na>", "nat"),
        *("n/a", "#n/a", "#na", "null", "(null)"),
    )
)
# Words of other meanings in any other case.
_MISSING_EXACTLY = frozenset(("", "None", "NONE", "NA"))

_SHOWN = 10  # bad rows described in full; the rest are counted
# C0 without the tab, DEL, C1 and lone surrogates: no file system or terminal takes them well.
_CONTROL = frozenset(map(chr, [*range(0x20), *range(0x7F, 0xA0), *range(0xD800, 0xE000)])) - {"\t"}

T = TypeVar("T")


class MalformedRow(Exception):
    """A row that cannot be used: the reason and the fix."""


class MissingLabel(MalformedRow):
    """A row without the label that it needs."""


class BadRows:
    """Errors of rows: the place of each (`train.csv:17`), and the reason."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []
        self.unlabelled = 0

    def add(self, place: str, reason: object) -> None:
        """Add the error of one row."""
        self.found.append((place, str(reason)))
        self.unlabelled += isinstance(reason, MissingLabel)

    def raise_any(self) -> None:
        """Raise a DataError about all of them, if there are any."""
        if self.found:
            raise combined_error(self.found, ": ".join)


@dataclass(frozen=True)
class ListLayout:
    """Columns and image folder of a list that a command is given.

    Attributes:
        path_column: None to find it by name and content.
        label_column: None to find it by name.
        image_root: base folder or URI of relative paths; None for the folder of the list.
    """

    path_column: str | None = None
    label_column: str | None = None
    image_root: str | None = None


BY_CONTENT = ListLayout()


@dataclass(frozen=True)
class AnnotationOptions:
    """Options of reading annotations.

    Attributes:
        labelled: a missing label is an error; otherwise it is "".
        path_column: the table column of paths; None to detect it.
        label_column: the table column of labels; None to detect it.
        label_separator: the text between the labels of an image; None where each has one.
        joiner: the text that is put between the labels of an image with a list of them, which are
            then one text; None to refuse such a list, where there is no `label_separator` either.
        coarser_columns: the table columns of coarser classes, the finest first.
        weight_column: the table column of the images' weights; None for no weights.
        image_root: base folder or URI of relative paths; None for the annotation's folder.
        bad: collects the errors of rows, which are then skipped; None to raise them.
        skipped: collects the files of image folders that are skipped, by kind.
    """

    labelled: bool = True
    path_column: str | None = None
    label_column: str | None = None
    label_separator: str | None = None
    joiner: str | None = None
    coarser_columns: tuple[str, ...] = ()
    weight_column: str | None = None
    image_root: str | None = None
    bad: BadRows | None = field(default=None, compare=False)
    skipped: list[Skipped] | None = field(default=None, compare=False)

    @property
    def list_separator(self) -> str | None:
        """The text between the labels of an image with a list of them; None to refuse it."""
        return self.label_separator or self.joiner

    def with_layout(self, layout: ListLayout) -> AnnotationOptions:
        """The same with what `layout` names."""
        return replace(self, **{key: v for key, v in asdict(layout).items() if v})

    def report(self, bad: BadRows) -> None:
        """Hand the errors of rows to `bad`, or raise a DataError about them."""
        if self.bad is None:
            bad.raise_any()
        else:
            self.bad.found += bad.found


DEFAULT = AnnotationOptions()
JOINER = "|"
UNLABELLED = AnnotationOptions(labelled=False, joiner=JOINER)


@dataclass(frozen=True)
class Annotation:
    """The argument of readers: a file, folder or archive; its text, if that was read already."""

    uri: str
    options: AnnotationOptions = DEFAULT
    content: str | None = None

    @property
    def name(self) -> str:
        """The URI without secrets; also `Record.source`."""
        return storage.public(self.uri)

    @cached_property
    def text(self) -> str:
        """The text; see `read_text`."""
        return read_text(self.uri) if self.content is None else self.content

    def resolver(self) -> Callable[[str], str]:
        """The `storage.resolver` of its paths; it raises MalformedRow."""
        root = self.options.image_root
        resolve = storage.resolver(self.uri if root is None else storage.join(root, "list"))

        def place(path: str) -> str:
            try:
                return resolve(path)
            except StorageError as error:  # it leads out of the bucket
                raise MalformedRow(str(error)) from None

        return place

    def finish(self, records: RecordTable, bad: BadRows, empty: str) -> RecordTable:
        """The records, once `bad` is reported; a DataError, `empty`, where there are neither.

        A list without any labels is one error, not one for each row.
        """
        if not records and bad.unlabelled == len(bad.found) > 1:
            first = ": ".join(bad.found[0])
            none = f"none of the {bad.unlabelled:,} rows has a label, as {first}"
            bad.found = [(self.name, none)]
        self.options.report(bad)
        if not records and not bad.found:
            raise DataError(f"{self.name}: {empty}")
        return records


def read_text(uri: str) -> str:
    """The text of a file: gunzipped, decoded, without its byte order mark.

    Raises:
        StorageError: the file cannot be read.
        DataError: it is not UTF-8 text, or a damaged gzip file.
    """
    return decode_text(storage.read_bytes(uri), storage.public(uri))


def decode_text(content: bytes, place: str) -> str:
    """The text in the content of a file, as `read_text`."""
    if content[:2] == b"\x1f\x8b":  # no UTF-8 text begins so
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{place}: damaged gzip file ({error}); write it again") from None
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{place}: UTF-16 text; save the file as UTF-8")
    if fault := list_fault(content[:ENOUGH]):
        raise DataError(f"{place}: not a list, but {fault}")
    try:
        return _with_newlines(content.decode("utf-8").removeprefix("\ufeff"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{place}:{line}: byte 0x{content[error.start]:02x} is not UTF-8 text;"
            " save the file as UTF-8"
        ) from None


def _with_newlines(text: str) -> str:
    r"""The text with `\n` as its line ends if they are `\r` alone, as in old files of a Mac."""
    if text.find("\n") in (-1, len(text) - 1):
        return text.replace("\r\n", "\n").replace("\r", "\n")
    return text


def lines(text: str) -> Iterator[str]:
    r"""Lines with their ends, `\n` or `\r\n`; Unicode's other line ends are ordinary characters.

    One at a time: a list of all would hold the text a second time.
    """
    begin = 0
    while begin < len(text):
        end = text.find("\n", begin) + 1 or len(text)
        yield text[begin:end]
        begin = end


def content_lines(text: str) -> Iterator[tuple[int, str]]:
    """Number and content of each line, without those that are blank or begin with `#`."""
    for number, line in enumerate(lines(text), 1):
        if (content := line.strip()) and content[0] != "#":
            yield number, content


def has_control_characters(text: str) -> bool:
    """True for text that neither a path nor a label may be."""
    return not text.isprintable() and not _CONTROL.isdisjoint(text)


def name_fault(name: str) -> str:
    """The fault of a file name with control characters, and the fix; it follows the name."""
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        return "is a name that is not UTF-8; rename it, or set PYTHONUTF8=1 where the locale is not"
    return "holds a control character; rename it"


def is_invalid_uri(uri: str) -> bool:
    """True for a URI that cannot be parsed, as `http://[cat`."""
    if "://" in uri and not (uri.isascii() and "[" not in uri and "]" not in uri):
        try:
            urlsplit(uri)
        except ValueError:
            return True
    return False


def is_integer(label: str) -> bool:
    """True for a non-negative integer of any length."""
    return label.isascii() and label.isdigit()


def canonical_label(label: str) -> str:
    """The label; the shortest form of a non-negative integer: `007` is `7`."""
    return (label.lstrip("0") or "0") if label[:1] == "0" and is_integer(label) else label


def is_missing(label: str) -> bool:
    """True for a missing value: empty, `nan`, `null`, `None`, ..."""
    return label in _MISSING_EXACTLY or (len(label) <= 9 and label.lower() in _MISSING)


def parse_label(text: str, labelled: bool) -> str:
    """The canonical label; `3.0`, as pandas writes it, is `3`; "" if missing and not needed.

    Raises:
        MalformedRow: it is missing and needed, or holds a control character.
    """
    label = text.strip()
    if is_missing(label):
        if not labelled:
            return ""
        raise MissingLabel(
            f"label {quoted(label)} is a missing value; fill it in or remove the row (a class "
            "cannot have this name)"
            if label
            else "no label; fill it in or remove the row"
        )
    if has_control_characters(label):
        raise MalformedRow(f"label {quoted(label)} holds a control character; remove it")
    whole, dot, rest = label.partition(".")
    if dot and rest and not rest.strip("0") and whole.removeprefix("-").isdigit():
        label = whole if whole.strip("-0") else "0"
    return canonical_label(label)


def parse_labels(text: str, options: AnnotationOptions) -> tuple[str, ...]:
    """The different labels in a text, in their order: one without a label separator.

    Raises:
        MalformedRow: as in `parse_label`.
    """
    separator = options.label_separator
    if separator is None:
        return (parse_label(text, options.labelled),)
    parts = [part for part in text.split(separator) if part.strip()] or [""]
    return tuple(dict.fromkeys(parse_label(part, options.labelled) for part in parts))


def parse_weight(text: str) -> float:
    """The weight of an image or a class, 0 or more; a ValueError for other text."""
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 <= weight <= 1e30:  # NaN fails the comparison
        raise ValueError(f"weight {quoted(text)} is not a number of 0 or more; write e.g. 2.5")
    return weight


def names_file(setting: str) -> bool:
    """True where a setting that names columns or a file names a file."""
    return "://" in setting or setting.lower().endswith((".txt", ".csv", ".tsv"))


def quoted(text: str) -> str:
    """A value as messages show it: quoted, escaped, without secrets, cut after 80 characters."""
    text = storage.without_secrets(text)
    return repr(text if len(text) <= 80 else text[:77] + "...")


def combined_error(items: Sequence[T], describe: Callable[[T], str]) -> DataError:
    """One error about all items: the first ten described in full, the rest counted."""
    found = [describe(item) for item in items[:_SHOWN]]
    if len(items) > _SHOWN:
        found.append(f"and {len(items) - _SHOWN:,} more")
    return DataError("\n".join(found))
