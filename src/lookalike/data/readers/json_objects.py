"""JSON objects, one a line."""

from __future__ import annotations

import json

from lookalike.data.readers.annotation import MalformedRow, quoted


def json_object(line: str) -> dict[str, object]:
    """The object of a line; a comma behind it, as between those of a list, is left out.

    Raises:
        MalformedRow: it is no JSON object.
    """
    line = line.strip()
    try:
        item = json.loads(line.removesuffix(","))
    except json.JSONDecodeError as error:
        message = f"{quoted(line)} is not JSON ({error.msg} at column {error.colno})"
        raise MalformedRow(f"{message}; write one object a line") from None
    except (ValueError, RecursionError):  # a number or a nesting beyond Python's limits
        raise MalformedRow(
            f"{quoted(line)} is not JSON that can be parsed (number or nesting too large); write "
            "one object a line"
        ) from None
    if not isinstance(item, dict):
        raise MalformedRow(f"{quoted(line)} is not a JSON object; write one object a line")
    return item
