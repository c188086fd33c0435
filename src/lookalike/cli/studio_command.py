"""Arguments of `lookalike studio`."""

from __future__ import annotations

from typing import Annotated

import typer

from lookalike.errors import MissingExtraError


def studio(
    root: Annotated[
        list[str] | None,
        typer.Option(help="Folder of lists and runs, by default this one; several are possible."),
    ] = None,
    index: Annotated[
        list[str] | None,
        typer.Option(
            help="Index in a database to search, as qdrant://HOST:6334/COLLECTION or "
            "postgresql://USER@HOST/DATABASE/TABLE; several are possible."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8080,
    token_file: Annotated[
        str | None,
        typer.Option(help="File with the token of the login; required with another --host."),
    ] = None,
    allowed_host: Annotated[
        list[str] | None, typer.Option(help="Name under which a proxy forwards to this server.")
    ] = None,
    open: Annotated[bool, typer.Option("--open", help="Open a browser.")] = False,
) -> None:
    """Train and watch runs in a browser.

    Prints the address on stdout. Runs go on when the studio ends, and are found again.
    """
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise MissingExtraError("fastapi and uvicorn", "studio") from None

    from lookalike import log
    from lookalike.serving.access import Access, read_token
    from lookalike.serving.listening import bind
    from lookalike.serving.run_server import run_server
    from lookalike.studio.studio_app import LARGER, LOGIN, MAX_BODY, create_app

    log.start()
    token = None if token_file is None else read_token(token_file)
    access = Access(
        host, token, tuple(allowed_host or ()), max_body=MAX_BODY, larger=LARGER,
        open_paths=("/health/live", "/static/"), login_path=None if token is None else LOGIN,
    )  # fmt: skip
    app = create_app(root or ["."], access, index or ())

    def announce(address: str) -> None:
        typer.echo(address)
        if open:
            typer.launch(address)

    run_server(app, bind(host, port), announce=announce, stop_seconds=5)
