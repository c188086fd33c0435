"""Arguments of `lookalike studio`."""

from __future__ import annotations

from typing import Annotated

import typer

from lookalike.errors import check_installed


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
    from lookalike import log
    from lookalike.serving.listening import bind
    from lookalike.studio.galleries import database_gallery
    from lookalike.studio.roots import Roots
    from lookalike.studio.studio_access import studio_access

    log.start()
    access = studio_access(host, token_file, allowed_host or ())
    folders = root or ["."]
    Roots(folders)
    for address in index or ():
        database_gallery(address)
    listening = bind(host, port)
    try:
        check_installed("studio", "fastapi", "uvicorn", "multipart")
        from lookalike.serving.run_server import run_server
        from lookalike.studio.studio_app import create_app

        app = create_app(folders, access, index or ())

        def announce(address: str) -> None:
            typer.echo(address)
            if open:
                typer.launch(address)

        run_server(app, listening, announce=announce, stop_seconds=5)
    finally:
        listening.close()
