"""Arguments of `lookalike serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from lookalike.cli.arguments import Device, Model


def serve(
    model: Model,
    index: Annotated[
        str | None,
        typer.Option(
            help="Index to search: a folder, qdrant://... or postgresql://...; an empty one is "
            "made where there is none, with a warning."
        ),
    ] = None,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Refuse changes of the index.")
    ] = False,
    host: Annotated[
        str, typer.Option(help="Address; one that other machines reach needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8080,
    token_file: Annotated[
        str | None, typer.Option(help="File with the token that requests must show.")
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(help="Another name of this server, as behind a proxy; may be given again."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the model in requests; by default its folder's.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads that decode images.")] = 4,
    queue: Annotated[
        int, typer.Option(help="Images that wait or are computed; more are answered with 429.")
    ] = 256,
    max_images: Annotated[int, typer.Option(help="Images of a request.")] = 64,
    max_body: Annotated[int, typer.Option(help="Bytes of a request.")] = 64 * 2**20,
    max_pixels: Annotated[int, typer.Option(help="Pixels of an image.")] = 50_000_000,
    seconds: Annotated[
        float, typer.Option(help="For a request's body to arrive, and again for its answer.")
    ] = 30.0,
    drain_seconds: Annotated[
        float,
        typer.Option(help="In which a stopping server still accepts, while it is not ready."),
    ] = 0.0,
    device: Device = "auto",
) -> None:
    """Serve a model and an index over HTTP."""
    from lookalike.commands.serve import serve as command

    command(
        model,
        index=index,
        read_only=read_only,
        host=host,
        port=port,
        token_file=token_file,
        allowed_hosts=tuple(allowed_host or ()),
        name=name,
        threads=threads,
        queue=queue,
        max_images=max_images,
        max_body=max_body,
        max_pixels=max_pixels,
        seconds=seconds,
        drain_seconds=drain_seconds,
        device=device,
        announce=typer.echo,
    )
