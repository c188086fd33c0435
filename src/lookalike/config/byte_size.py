"""Sizes as people write them."""

import re

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*$", re.IGNORECASE)


def in_bytes(text: str) -> int:
    """The number of bytes that `50GB`, `1.5 TiB` or `1000000` mean.

    Raises:
        ValueError: it is no size.
    """
    found = _SIZE.match(text)
    if found is None or (found[3] and not found[2]) or float(found[1]) == 0:
        raise ValueError("is no size; write a number with a unit, as 500MB, 50GB, 2TB or 64GiB")
    unit = found[2].lower()
    size = float(found[1]) * (_BINARY[unit] if found[3] else _UNITS[unit])
    if not 1 <= size < 2**63:
        raise ValueError("is no size of a disk or memory; write e.g. 500MB, 50GB or 2TB")
    return int(size)
