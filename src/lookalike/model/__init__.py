"""Backbones by name, in a plain table that does not import torch."""

BACKBONES: dict[str, str] = {
    "resnet18": "resnet18",
    "resnet34": "resnet34",
    "resnet50": "resnet50",
    "resnet101": "resnet101",
    "swint_tiny": "swin_tiny_patch4_window7_224",
    "swint_small": "swin_small_patch4_window7_224",
    "swint_base": "swin_base_patch4_window7_224",
    "vit_tiny": "vit_tiny_patch16_224",
    "vit_small": "vit_small_patch16_224",
    "vit_base": "vit_base_patch16_224",
    "xcit_tiny": "xcit_tiny_12_p16_224",
    "xcit_small": "xcit_small_12_p16_224",
    # No XCiT is called "base"; the original's base is the medium one.
    "xcit_base": "xcit_medium_24_p16_224",
}
"""The component's thirteen backbones and the timm models that they are."""

BACKBONE_ALIASES: dict[str, str] = {
    "resnet_18": "resnet18",
    "resnet_34": "resnet34",
    "resnet_50": "resnet50",
    "resnet_101": "resnet101",
    "swin_transformer_tiny": "swint_tiny",
    "swin_transformer_small": "swint_small",
    "swin_transformer_base": "swint_base",
}
"""The names on the component's page that differ from ours."""

TORCHVISION_NAMES: dict[str, str] = {
    "swin_t": "swint_tiny",
    "swin_s": "swint_small",
    "swin_b": "swint_base",
    "vit_t_16": "vit_tiny",
    "vit_s_16": "vit_small",
    "vit_b_16": "vit_base",
}
"""The names of some of them in torchvision and in papers (`ViT-B/16`)."""

POOLINGS = ("gem", "avg", "max", "cls")
"""Poolings of a neck; several are joined with `+`."""


def timm_name(backbone: str) -> str:
    """The timm model behind one of our names, an alias, or any timm name as it is."""
    name = BACKBONE_ALIASES.get(backbone, backbone)
    return BACKBONES.get(name, name)
