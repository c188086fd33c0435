"""Addresses of indexes in databases, checked without the packages of their clients."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

from lookalike import storage
from lookalike.errors import ConfigError

_QDRANT = re.compile(
    r"qdrant://(?P<host>\[[0-9a-fA-F:]+\]|[^/:@?]+)(:(?P<port>\d{1,5}))?/(?P<name>[^/?#]+)"
    r"(\?(?P<query>.*))?",
    re.IGNORECASE,
)


def parse_qdrant(address: str) -> tuple[str, int, str, bool]:
    """Host, port, collection and TLS of `qdrant://HOST:6334/COLLECTION?tls=true`.

    Raises:
        ConfigError: another form.
    """
    place = storage.public(address)
    found = _QDRANT.fullmatch(address)
    if found is None:
        raise ConfigError(
            f"{place}: not of the form qdrant://HOST:6334/COLLECTION, with the API key in "
            "QDRANT_API_KEY; folders of Qdrant's client are not read: they are pickles"
        )
    port = int(found["port"] or 6334)
    if port == 6333:
        raise ConfigError(f"{place}: 6333 is Qdrant's port for HTTP; give the one for gRPC, 6334")
    options = dict(parse_qsl(found["query"] or "", keep_blank_values=True))
    tls = options.pop("tls", "false").lower()
    if options or tls not in ("true", "false") or not 0 < port < 65536:
        raise ConfigError(f"{place}: the only parameter is ?tls=true or ?tls=false")
    return found["host"], port, found["name"], tls == "true"


def parse_postgres(address: str) -> tuple[str, list[str]]:
    """The conninfo of libpq, and the names, of `postgresql://USER@HOST/DATABASE/[SCHEMA.]TABLE`.

    Raises:
        ConfigError: another form, or a password.
    """
    place, _, query = address.partition("?")
    rest = place.partition("://")[2]
    host, _, path = rest.partition("/")
    form = "postgresql://USER@HOST:5432/DATABASE/TABLE"
    secrets = {"password", "sslpassword"} & {name for name, _ in parse_qsl(query)}
    if ":" in host.rpartition("@")[0] or secrets:
        raise ConfigError(
            f"{storage.public(address)}: an address must not hold a password, which logs and "
            "histories keep; set PGPASSWORD, or write it to ~/.pgpass"
        )
    for server in host.rpartition("@")[2].split(","):  # libpq tries one after the other
        if not re.fullmatch(r"(\[[^]]*\]|[^:]*)(:[0-9]*)?", server):
            raise ConfigError(
                f"{storage.public(address)}: {server!r} is no HOST:PORT; the form is {form}"
            )
    database, _, table = path.partition("/")
    names = table.split(".")
    if not database or not all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", n) for n in names):
        raise ConfigError(
            f"{storage.public(address)}: not of the form {form}, with a table named by letters, "
            "digits and _"
        )
    if len(names) > 2:
        raise ConfigError(f"{storage.public(address)}: a table is TABLE or SCHEMA.TABLE")
    conninfo = f"postgresql://{host}/{database}" + (f"?{query}" if query else "")
    return conninfo, names
