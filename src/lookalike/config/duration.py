"""Durations as people write them."""

import re

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds_of(text: str) -> float:
    """Seconds of `90s`, `30m`, `8h` or `1.5h30m`.

    Raises:
        ValueError: it is no time; the message follows the setting's name.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text.replace(" ", ""))
    if not parts or "".join(a + b for a, b in parts) != text.replace(" ", ""):
        raise ValueError("is not a time; write e.g. 90s, 30m, 8h or 1h30m")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
