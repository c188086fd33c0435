"""Numbers of bytes as people write and read them: `50GB` (decimal), `64GiB` (binary)."""

import re

_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*$", re.IGNORECASE)


def in_bytes(text: str) -> int:
    """The number of bytes that `50GB`, `1.5 TiB` or `1000000` mean.

    Raises:
        ValueError: it is no size.
    """
    found = _SIZE.match(text)
    if found is None or (found[3] and not found[2]) or float(found[1]) == 0:
        raise ValueError("is no size; write a number with a unit, as 500MB, 50GB, 2TB or 64GiB")
    size = float(found[1]) * (1024 if found[3] else 1000) ** _POWERS[found[2].lower()]
    if not 1 <= size < 2**63:
        raise ValueError("is no size of a disk or memory; write e.g. 500MB, 50GB or 2TB")
    return int(size)


def in_words(size: float) -> str:
    """`256 MB`: bytes in decimal units, for people."""
    for name, unit in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= unit:
            return f"{size / unit:.3g} {name}" if size < 1000 * unit else f"{size:.3g} B"
    return f"{size:.0f} B"
