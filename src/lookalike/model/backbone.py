"""timm models as feature extractors of one shape."""

import difflib
import warnings
from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import Tensor, nn

from lookalike.errors import ModelError
from lookalike.model import BACKBONES, timm_name


class Backbone(nn.Module):
    """A timm model without its classifier, whose features always are (B, N, C).

    Attributes:
        name: the name that was asked for.
        dim: channels C of the feature map.
        has_class_token: whether `forward` gives one.
        data_config: mean, std, interpolation and crop_pct of the pretrained weights (timm).
    """

    def __init__(self, name: str, image_size: int, *, download: bool = False) -> None:
        """Build the model.

        Args:
            name: one of BACKBONES, an alias or a timm name.
            image_size: side in pixels of the images to come.
            download: load timm's pretrained weights, from its cache or its hub.

        Raises:
            ModelError: no such model, weights that cannot be had, or an impossible size.
        """
        super().__init__()
        self.name = name
        model: Any = _create(name, image_size, download)  # timm has no types
        self.model = model
        self._features: Callable[[Tensor], Tensor] = model.forward_features
        self.dim = int(model.num_features)
        # Vision transformers put class and register tokens before the image's.
        self.num_prefix_tokens = int(getattr(model, "num_prefix_tokens", 0) or 0)
        self.has_class_token = getattr(model, "cls_token", None) is not None
        self.data_config: dict[str, Any] = timm.data.resolve_model_data_config(model)

    def compile_features(self) -> None:
        """Run the model through torch.compile from now on; its weights keep their names."""
        self._features = torch.compile(self._features)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features (B, N, C) and the class token (B, C) or None, for images (B, 3, S, S)."""
        maps = self._features(images)
        if maps.ndim == 3:  # (B, prefix + N, C)
            token = maps[:, 0] if self.has_class_token else None
            return maps[:, self.num_prefix_tokens :], token
        if maps.ndim == 2:  # a model that pools on its own way
            return maps[:, None], None
        if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            return maps.flatten(1, 2), None
        return maps.flatten(2).transpose(1, 2), None

    @property
    def is_convolutional(self) -> bool:
        """Whether channels-last memory helps (convolutions gain, attention does not)."""
        return self.num_prefix_tokens == 0 and getattr(self.model, "output_fmt", "NCHW") != "NHWC"


def _create(name: str, image_size: int, download: bool) -> nn.Module:
    target = timm_name(name)
    if not timm.is_model(target.split(".")[0]):
        known = {*BACKBONES, *timm.list_models()}
        close = difflib.get_close_matches(name, known, 3, 0.5)
        hint = f"; close names: {', '.join(close)}" if close else ""
        raise ModelError(
            f"model.backbone={name!r} is neither one of {', '.join(BACKBONES)} "
            f"nor a timm model{hint}"
        )
    try:
        return _build(target, image_size, download)
    except AssertionError as error:
        raise ModelError(
            f"model.backbone={name!r} cannot see images of model.image_size={image_size}: {error}"
        ) from None


def _build(target: str, image_size: int, download: bool) -> nn.Module:
    options: dict[str, Any] = {"num_classes": 0, "global_pool": ""}
    with warnings.catch_warnings():
        # timm warns about names that moved; the user did not choose them.
        warnings.simplefilter("ignore")
        if download:
            return _pretrained(target, image_size, options)
        return _sized(target, image_size, pretrained=False, options=options)


def _sized(target: str, image_size: int, *, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    """The model for this size: those with position embeddings must be told, others refuse it."""
    try:
        return timm.create_model(target, pretrained=pretrained, img_size=image_size, **options)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
    except AssertionError:
        # XCiT's patches overlap no edge; its own forward pass takes any size all the same.
        pass
    return timm.create_model(target, pretrained=pretrained, **options)


def _pretrained(target: str, image_size: int, options: dict[str, Any]) -> nn.Module:
    if "." not in target and not timm.models.get_pretrained_cfg(target).has_weights:  # type: ignore[union-attr]
        raise ModelError(
            f"timm has no pretrained weights for {target!r}; "
            "set model.pretrained to a weights file, or to false for a random start"
        )
    try:
        return _sized(target, image_size, pretrained=True, options=options)
    except (AssertionError, ModelError):
        raise
    except Exception as error:  # whatever the hub client raises: there are dozens
        cause = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"the pretrained weights of {target!r} cannot be had from timm's hub "
            f"({type(error).__name__}: {cause[0][:200]}). Ways out: connect once so that they are "
            "cached; set model.pretrained=FILE.safetensors (or .pth); or model.pretrained=false "
            "for a random start"
        ) from None
