"""Arguments and output of `lookalike export`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lookalike.cli.arguments import with_read_flags


@with_read_flags("device")
def export(
    model: Annotated[str, typer.Argument(help="An output directory, or a model folder.")],
    format: Annotated[str, typer.Option(help="onnx, torch_export, safetensors or timm.")] = "onnx",
    precision: Annotated[str, typer.Option(help="fp32, fp16 or (ONNX only) int8.")] = "fp32",
    input: Annotated[
        str,
        typer.Option(
            help="picture: any size, uint8, preprocessing is a part of it. tensor (ONNX only): "
            "the network alone, float32 (B, 3, H, W), preprocessed and normalised."
        ),
    ] = "picture",
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", help="File or folder, or its URI; exports/ in the run by default."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Labelled images to compare on; by default the run's validation list, or its "
            "training list where it had none."
        ),
    ] = None,
    data_format: Annotated[
        str, typer.Option(help="Of --data: auto, image_list, csv, folder, ...")
    ] = "auto",
    split: Annotated[
        str | None, typer.Option(help="Where --data has splits: the one to take.")
    ] = None,
    max_drift: Annotated[
        float | None,
        typer.Option(
            help="Largest 1 - cosine of an image's two vectors; by default 1e-4 for fp32, 1e-3 "
            "for fp16, 0.1 for int8."
        ),
    ] = None,
    max_recall_change: Annotated[
        float | None,
        typer.Option(
            help="Largest change of Recall@1; by default 0.001 for fp32, 0.005 for fp16, 0.02 "
            "for int8."
        ),
    ] = None,
    max_images: Annotated[
        int, typer.Option(help="Images to compare on, at most; whole classes, two at least.")
    ] = 1000,
    ranges: Annotated[
        str | None,
        typer.Option(help="For int8: images that set the ranges; by default the training list."),
    ] = None,
    **read: Any,
) -> None:
    """Export a model for production, compared with the trained one."""
    from lookalike.commands.export import export as command

    command(
        model,
        format,
        precision=precision,
        input=input,
        output=output,
        data=data,
        data_format=data_format,
        split=split,
        max_drift=max_drift,
        max_recall_change=max_recall_change,
        max_images=max_images,
        ranges=ranges,
        **read,
    )
