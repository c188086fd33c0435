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

CURRENT_BACKBONES: dict[str, str] = {
    "siglip2_base": "vit_base_patch16_siglip_224.v2_webli",
    "siglip2_base_384": "vit_base_patch16_siglip_384.v2_webli",
    "siglip2_large": "vit_large_patch16_siglip_256.v2_webli",
    "siglip2_so400m": "vit_so400m_patch14_siglip_224.v2_webli",
    "dinov2_small": "vit_small_patch14_dinov2.lvd142m",
    "dinov2_base": "vit_base_patch14_dinov2.lvd142m",
    "dinov2_large": "vit_large_patch14_dinov2.lvd142m",
    "dinov2_reg_small": "vit_small_patch14_reg4_dinov2.lvd142m",
    "dinov2_reg_base": "vit_base_patch14_reg4_dinov2.lvd142m",
    "dinov2_reg_large": "vit_large_patch14_reg4_dinov2.lvd142m",
    "dinov3_small": "vit_small_patch16_dinov3.lvd1689m",
    "dinov3_small_plus": "vit_small_plus_patch16_dinov3.lvd1689m",
    "dinov3_base": "vit_base_patch16_dinov3.lvd1689m",
    "dinov3_large": "vit_large_patch16_dinov3.lvd1689m",
    "dinov3_convnext_tiny": "convnext_tiny.dinov3_lvd1689m",
    "dinov3_convnext_small": "convnext_small.dinov3_lvd1689m",
    "dinov3_convnext_base": "convnext_base.dinov3_lvd1689m",
    "dinov3_convnext_large": "convnext_large.dinov3_lvd1689m",
    "pe_tiny": "vit_pe_core_tiny_patch16_384.fb",
    "pe_small": "vit_pe_core_small_patch16_384.fb",
    "pe_base": "vit_pe_core_base_patch16_224.fb",
    "pe_large": "vit_pe_core_large_patch14_336.fb",
    "tips2_base": "vit_base_patch14_reg1_tipsv2.webli",
    "tips2_large": "vit_large_patch14_reg1_tipsv2.webli",
    "tips2_so400m": "vit_so400m_patch14_reg1_tipsv2.webli",
    "clip_base": "vit_base_patch16_clip_224.openai",
    "clip_large": "vit_large_patch14_clip_224.openai",
    "eva02_tiny": "eva02_tiny_patch14_224.mim_in22k",
    "eva02_small": "eva02_small_patch14_224.mim_in22k",
    "eva02_clip_base": "eva02_base_patch16_clip_224.merged2b",
    "eva02_clip_large": "eva02_large_patch14_clip_224.merged2b",
    "mobilenetv4_small": "mobilenetv4_conv_small.e2400_r224_in1k",
    "mobilenetv4_medium": "mobilenetv4_conv_medium.e500_r256_in1k",
    "mobilenetv4_large": "mobilenetv4_conv_large.e600_r384_in1k",
    "mobilenetv4_hybrid_medium": "mobilenetv4_hybrid_medium.e500_r224_in1k",
    "efficientnetv2_small": "tf_efficientnetv2_s.in21k_ft_in1k",
    "efficientnetv2_medium": "tf_efficientnetv2_m.in21k_ft_in1k",
}
"""Short names of current backbones, and the weights of timm (`architecture.tag`) that they are."""

POOLINGS = ("gem", "avg", "max", "cls", "map", "quarters")
"""Poolings of a neck; several are joined with `+`."""


def timm_name(backbone: str) -> str:
    """The timm model behind one of our names, an alias, or any timm name as it is."""
    name = BACKBONE_ALIASES.get(backbone, backbone)
    return BACKBONES.get(name) or CURRENT_BACKBONES.get(name, name)
