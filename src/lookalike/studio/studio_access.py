"""Access to the studio, from its arguments; without the packages of its extra."""

from __future__ import annotations

from collections.abc import Sequence

from lookalike.serving.access import Access, read_token

LOGIN = "/login"
SEARCH = "/look/search"
MAX_BODY = 2**20
MAX_PICTURE = 32 * 2**20
"""Bytes of a request with a picture."""
LARGER = ((SEARCH, MAX_PICTURE),)


def studio_access(host: str, token_file: str | None, names: Sequence[str]) -> Access:
    """The access of a studio on `host`, with the token in a file, and more names of its server.

    Raises:
        LookalikeError: another host without a token, or the file holds none.
    """
    token = None if token_file is None else read_token(token_file)
    return Access(
        host, token, tuple(names), max_body=MAX_BODY, larger=LARGER,
        open_paths=("/health/live", "/static/"), login_path=None if token is None else LOGIN,
    )  # fmt: skip
