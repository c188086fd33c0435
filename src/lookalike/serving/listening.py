"""The address that an HTTP server listens on."""

from __future__ import annotations

import socket

from lookalike.errors import ConfigError, reason_of

BACKLOG = 2048  # connections that wait to be accepted


def check_port(port: object) -> None:
    """Check that `port` is one.

    Raises:
        ConfigError: it is not.
    """
    if type(port) is not int or not 0 <= port <= 65535:
        raise ConfigError(f"port={port!r} (--port) must be from 0 to 65535; 0 takes a free one")


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        ConfigError: the address is not of this machine, or in use.
    """
    check_port(port)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise ConfigError(f"--host {host}: no address of this machine") from None
    family, kind, protocol, _, address = found[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        reason = reason_of(error)
        raise ConfigError(
            f"{host}:{port}: {reason}; choose another --port, or --port 0 for a free one"
        ) from None
    listening.setblocking(False)
    return listening
