"""Families of backbones: what each was found to suit, with the source of every claim.

Figures are those of the sources; nothing here was measured by this project unless it says so. A
family without a claim is listed without a task: nothing was read that compares it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lookalike.model import BACKBONES

TASKS = ("products", "faces", "animals", "general")

LOOKBENCH = "LookBench README, frozen backbones, fine Recall@1 (read 2026-11)"
OML_ZOO = "open-metric-learning model zoo, zero-shot Recall@1 (read 2026-11; splits may differ)"
MIEWID = "MiewID, multi-species re-identification (abstract, read 2026-11)"
ARCFACE_TORCH = "insightface arcface_torch README, IJB-C TAR at FAR 1e-4 (read 2026-11)"


@dataclass(frozen=True)
class Claim:
    """Evidence that a family suits a task.

    Attributes:
        rank: 1 for the first to try.
    """

    rank: int
    text: str
    source: str


@dataclass(frozen=True)
class Family:
    """Backbones of one origin.

    Attributes:
        pooling: of the published model: where its own vector comes from.
        about: of the pretraining.
        members: our names, or timm's, the smallest first.
    """

    name: str
    about: str
    pooling: str
    members: tuple[str, ...]
    tasks: dict[str, Claim] = field(default_factory=dict)


FAMILIES = (
    Family(
        "SigLIP 2", "images and text, sigmoid loss", "map",
        ("siglip2_base", "siglip2_base_384", "siglip2_large", "siglip2_so400m"),
        {
            "products": Claim(1, "B/16 at 384 px 46.1, L 41.9; DINOv3-L 31.8", LOOKBENCH),
            "general": Claim(
                2, "products and cars; for animals try DINO, neither wins everywhere", LOOKBENCH
            ),
        },
    ),
    Family(
        "CLIP", "images and text", "cls", ("clip_base", "clip_large"),
        {
            "products": Claim(
                2, "B/16: SOP 64.8, In-Shop 60.6, Cars 76.7; DINOv2-S 56.6, 33.4, 50.3", OML_ZOO
            ),
        },
    ),
    Family(
        "DINOv2", "images alone", "cls",
        (
            "dinov2_small", "dinov2_base", "dinov2_large",
            "dinov2_reg_small", "dinov2_reg_base", "dinov2_reg_large",
        ),
        {
            "animals": Claim(2, "S/14: CUB birds 79.7; CLIP-B/16 66.5, DINO-S 62.7", OML_ZOO),
            "general": Claim(1, "no labels and no text in its pretraining; Apache-2.0", OML_ZOO),
        },
    ),
    Family(
        "DINOv3", "images alone", "cls",
        ("dinov3_small", "dinov3_small_plus", "dinov3_base", "dinov3_large"),
        {
            "general": Claim(
                1, "above specialised models without fine-tuning, say its authors",
                "DINOv3, arXiv 2508.10104, abstract",
            ),
            "products": Claim(4, "L 31.8; SigLIP 2 B/16 46.1", LOOKBENCH),
        },
    ),
    Family(
        "DINOv3 ConvNeXt", "images alone, distilled from DINOv3", "avg",
        (
            "dinov3_convnext_tiny", "dinov3_convnext_small", "dinov3_convnext_base",
            "dinov3_convnext_large",
        ),
    ),
    Family(
        "PE core", "images, video and text", "map", ("pe_tiny", "pe_small", "pe_base", "pe_large")
    ),
    Family("TIPS v2", "images and text", "cls", ("tips2_base", "tips2_large", "tips2_so400m")),
    Family("EVA-02", "masked images", "avg", ("eva02_tiny", "eva02_small")),
    Family("EVA-02 CLIP", "images and text", "cls", ("eva02_clip_base", "eva02_clip_large")),
    Family(
        "EfficientNetV2", "ImageNet-21k", "avg", ("efficientnetv2_small", "efficientnetv2_medium"),
        {
            "animals": Claim(
                1,
                "M with GeM and batch norm: +19.2 points over MegaDescriptor-L on 33 unseen "
                "species; SwinV2-B 4.5 % below it",
                MIEWID,
            ),
        },
    ),
    Family(
        "ConvNeXt", "ImageNet-12k or -22k", "avg",
        ("convnext_nano", "convnext_tiny", "convnext_small", "convnext_base"),
    ),
    Family(
        "MobileNetV4", "ImageNet-1k", "avg",
        (
            "mobilenetv4_small", "mobilenetv4_medium", "mobilenetv4_large",
            "mobilenetv4_hybrid_medium",
        ),
    ),
    Family(
        "EfficientNet-Lite", "ImageNet-1k", "avg",
        ("tf_efficientnet_lite0", "tf_efficientnet_lite2"),
        {
            "general": Claim(
                4, "small and fast; the weights of the quickstart", "this project's examples"
            ),
        },
    ),
    Family(
        "ResNet", "ImageNet-1k", "avg",
        tuple(name for name in BACKBONES if name.startswith("resnet")),
        {
            "faces": Claim(
                1, "R50 on MS1MV3 96.37, R100 96.85; from random weights at 112 px", ARCFACE_TORCH
            ),
            "products": Claim(
                5, "R50 trained with cross-entropy: SOP 82.5, In-Shop 92.0", "FastRetri README"
            ),
            "general": Claim(5, "the default of the component", "its page"),
        },
    ),
    Family(
        "ViT", "ImageNet-21k", "cls", tuple(n for n in BACKBONES if n.startswith("vit")),
        {
            "faces": Claim(
                2, "ViT-B on WebFace42M, 30 % of the classes a step, 97.91", ARCFACE_TORCH
            ),
            "products": Claim(
                3, "trained: B/16 SOP 88.0; S/16 SOP 85.9, In-Shop 92.5",
                "Recall@k surrogate and Hyp-ViT, abstracts and tables",
            ),
            "animals": Claim(
                3, "trained: S/16 CUB birds 85.6, parameter-efficient 86.6", "Hyp-ViT; VPTSP-G"
            ),
            "general": Claim(3, "the most published fine-tuning results", "the same"),
        },
    ),
    Family(
        "Swin", "ImageNet-1k or -22k", "avg", tuple(n for n in BACKBONES if n.startswith("swint")),
        {
            "animals": Claim(
                4, "Swin-L is MegaDescriptor-L, which MiewID's CNN passes", MIEWID
            ),
        },
    ),
    Family("XCiT", "ImageNet-1k", "cls", tuple(n for n in BACKBONES if n.startswith("xcit"))),
)  # fmt: skip


def family_of(name: str) -> Family | None:
    """The family that lists this name."""
    return next((family for family in FAMILIES if name in family.members), None)


_FREE = ("apache-2.0", "mit", "bsd-3-clause")
_TERMS = ("dinov3-license",)  # commercial use allowed, under terms of its own
_RESEARCH = ("cc-by-nc", "noncommercial", "research")


def commercial_use(licence: str | None) -> str:
    """Commercial use by a licence of weights, as timm names it.

    `yes`, `terms` (allowed under terms of its own, to be read), `no` or `unknown`.
    """
    if licence in _FREE:
        return "yes"
    if licence in _TERMS:
        return "terms"
    if licence is not None and any(word in licence for word in _RESEARCH):
        return "no"
    return "unknown"
