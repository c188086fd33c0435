"""The image list: one `path label` a line, as the component's ClsSourceImageList reads it."""

from __future__ import annotations

from collections.abc import Iterator

from lookalike.data.decoding.image_formats import IMAGE_SUFFIXES
from lookalike.data.readers.annotation import (
    Annotation,
    BadRows,
    MalformedRow,
    MissingLabel,
    has_control_characters,
    is_invalid_uri,
    lines,
    parse_labels,
    quoted,
)
from lookalike.data.record import Details, Record, with_labels
from lookalike.data.record_table import RecordTable
from lookalike.errors import ConfigError

_PART = 2**22  # characters of a list that are looked at together


def read(annotation: Annotation) -> RecordTable:
    r"""The records of an image list.

    Each line is `path label`, split at the last run of blanks (spaces or tabs), so that paths may
    hold blanks and labels may not, nor the text between several labels. Only behind a tab that
    follows an image's file name a label may hold blanks. Lines that are blank or begin with `#` are
    skipped. UTF-8 with or without a byte order mark, lines that end in `\n` or
    `\r\n`, plain or gzipped.

    A last word like an image's file name after something unlike one (`my cat.jpg`) is a part of
    the path, and the label is missing.

    Raises:
        StorageError: the list cannot be read.
        DataError: bad lines, or no records.
    """
    separator = annotation.options.label_separator
    if separator is not None and separator.strip() != separator:
        raise ConfigError(
            f"data.label_separator={separator!r}: in a list blanks stand between path and label; "
            "write another sign between labels, as |"
        )
    rows = _Rows(annotation)
    first = 1
    for part in _parts(annotation.text):
        first += rows.add_plain(part, first) or rows.add_each(part, first)
    return annotation.finish(
        rows.records, rows.bad, "the list holds no images; write one a line: path label"
    )


class _Rows:
    """The records of the lines so far, and the errors of bad ones."""

    def __init__(self, annotation: Annotation) -> None:
        self.records = RecordTable()
        self.bad = BadRows()
        self._source, self._options = annotation.name, annotation.options
        self._resolve = annotation.resolver()
        # As written -> canonical, and details with further ones; also keeps one object of each.
        self._labels: dict[str, tuple[str, Details | None]] = {}

    def add_plain(self, part: str, first: int) -> int:
        """Add all lines at once; their number, or 0 where any needs a closer look.

        Each must be words with single blanks between, without what a label or a URI is refused for.
        """
        text = part.removesuffix("\n")
        odd = ("  ", "\n ", " \n", "\n\n", "\n#", "[", "]")
        words = text.replace("\n", "")
        if not words.isprintable() or (":" in words and not words.isascii()):
            return 0
        if text[:1] in (" ", "#", "\n", "") or text[-1] == " " or any(map(text.__contains__, odd)):
            return 0
        whole = text.split("\n")
        cuts = [line.rfind(" ") for line in whole]
        if min(cuts) < 0:
            return 0
        paths = [line[:cut] for line, cut in zip(whole, cuts, strict=True)]
        labels = [line[cut + 1 :] for line, cut in zip(whole, cuts, strict=True)]
        different = set(labels)
        if any("." in label for label in different):
            return 0
        try:
            found = {label: self._label(label) for label in different}
            places = list(map(self._resolve, paths))
        except MalformedRow:
            return 0
        if any(details is not None for _, details in found.values()):
            return 0
        canonical = [found[label][0] for label in labels]
        self.records.add_rows(places, canonical, self._source, first)
        return len(paths)

    def add_each(self, part: str, first: int) -> int:
        """Add one line after the other; the number of lines."""
        labelled, source = self._options.labelled, self._source
        number = first - 1
        for number, line in enumerate(lines(part), first):
            line = line.strip(" \t\r\n")
            if not line or line[0] == "#":
                continue
            start = label_start(line)
            path, label = line[: max(start - 1, 0)].rstrip(" \t"), line[start:]
            if not labelled and (not path or _is_path_alone(path, label)):
                path, label = line, ""
            try:
                # isprintable() is one quick pass, and false for all that could be wrong.
                if not path or not (path.isprintable() and label.isprintable()) or "." in label:
                    _check(line, path, label)
                known = self._label(label)
                if ":" in path and is_invalid_uri(path):
                    raise MalformedRow(f"{quoted(path)} is not a valid URI; correct it")
                place = self._resolve(path)
                self.records.append(Record(place, known[0], source, number, None, known[1]))
            except MalformedRow as error:
                self.bad.add(f"{source}:{number}", error)
        return number - first + 1

    def _label(self, label: str) -> tuple[str, Details | None]:
        known = self._labels.get(label)
        if known is None:
            found = parse_labels(label, self._options)
            known = self._labels[label] = found[0], with_labels(None, found)
        return known


def _parts(text: str) -> Iterator[str]:
    """The text in parts of whole lines."""
    begin = 0
    while begin < len(text):
        end = text.find("\n", begin + _PART) + 1 or len(text)
        yield text[begin:end]
        begin = end


def label_start(line: str) -> int:
    """Index at which the label of a line begins, behind its last blank; 0 without a blank.

    Behind a tab, as in `a.jpg<tab>red boot`, a label may hold blanks. The line has none at its end.
    """
    tab = line.rfind("\t")
    last = max(line.rfind(" "), tab)
    if "\t" in line[: max(last, 0)].rstrip(" \t"):
        path, label = line[:tab].rstrip(" \t"), line[tab + 1 :].lstrip(" ")
        if path.lower().endswith(IMAGE_SUFFIXES) and not label.lower().endswith(IMAGE_SUFFIXES):
            return len(line) - len(label)
    return last + 1


def _is_path_alone(path: str, label: str) -> bool:
    return label.lower().endswith(IMAGE_SUFFIXES) and not path.lower().endswith(IMAGE_SUFFIXES)


def _check(line: str, path: str, label: str) -> None:
    if "\r" in line:
        raise MalformedRow(
            f"{quoted(line)} holds a carriage return; save the list with \\n or \\r\\n as line ends"
        )
    if has_control_characters(path) or has_control_characters(label):
        raise MalformedRow(f"{quoted(line)} holds a control character; remove it")
    if not path or _is_path_alone(path, label):
        raise MissingLabel(f"{quoted(line)} has no label; write: path label")
