"""The whole model as a `torch.export` program, for images of any size."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from lookalike.data.image_size import height_width
from lookalike.data.loading.preprocess import LONGEST
from lookalike.errors import ExportError
from lookalike.exporting.network import Network, in_precision
from lookalike.model.embedder import Embedder


class WholeModel(nn.Module):
    """`Preprocess.prepare` without a branch (one graph for every size), then the network.

    Its integer arithmetic is explained in `lookalike.exporting.onnx_preprocess`.
    """

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        self.network = Network(embedder)
        self.height, self.width = height_width(embedder.preprocess.image_size)
        self.target = embedder.preprocess.resized
        self.mode = embedder.preprocess.interpolation

    def forward(self, images: Tensor) -> Tensor:
        """Unit vectors (B, D) float32 of RGB images (B, H, W, 3) uint8, any B, H and W."""
        shape: Any = images.shape  # symbolic integers during export
        _, height, width, _ = shape
        top: Any = torch.sym_max(height - LONGEST * width, 0) // 2
        left: Any = torch.sym_max(width - LONGEST * height, 0) // 2
        height, width = height - 2 * top, width - 2 * left
        planes = images.index_select(1, _places(top, height))
        planes = planes.index_select(2, _places(left, width)).permute(0, 3, 1, 2)
        least_height, least_width = self.target
        size: Any = (
            torch.sym_max(least_height, least_width * height // width),
            torch.sym_max(least_width, least_height * width // height),
        )
        planes = F.interpolate(planes, size=size, mode=self.mode, antialias=True)
        # Slices would make torch.export specialise on the whole image.
        rows = _offset(size[0], self.height) + torch.arange(self.height)
        columns = _offset(size[1], self.width) + torch.arange(self.width)
        planes = planes.index_select(2, rows).index_select(3, columns)
        return self.network(planes)  # of the input's size


def _offset(length: int, kept: int) -> int:
    """`round((length - kept) / 2)`, halves to even."""
    half, odd = (length - kept) // 2, (length - kept) % 2
    return half + odd * (half % 2)


def _places(start: int, count: int) -> Tensor:
    """Indices from `start`; a single one twice, as torch.export specialises on a length of 1."""
    return start + torch.arange(torch.sym_max(count, 2)).clamp(max=count - 1)


def build(embedder: Embedder, precision: str) -> ExportedProgram:
    """The program, for the CPU.

    Raises:
        ExportError: torch cannot export this network.
    """
    example = torch.zeros(2, 91, 77, 3, dtype=torch.uint8)  # any size
    dynamic = {"images": dict.fromkeys(range(3), Dim.DYNAMIC)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own parts
            model = WholeModel(in_precision(embedder, precision)).eval()
            program = torch.export.export(model, (example,), dynamic_shapes=dynamic)
    except Exception as error:  # its errors have no common base
        raise ExportError(
            f"torch.export cannot export {embedder.backbone.name}: "
            f"{(str(error).strip().splitlines() or [type(error).__name__])[0][:200]}"
        ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # file paths of the machine that exports
    return program


def save(program: ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the program with `metadata` as its extra files, which get the ending `.json`."""
    files = {f"{name}.json": text for name, text in metadata.items()}
    # Torch's own writer aborts the process when the disk is full.
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files=files)
    path.write_bytes(buffer.getbuffer())


def reread(path: Path) -> nn.Module:
    """The program that this process has just written; never others: `load` unpickles."""
    return torch.export.load(path).module()
