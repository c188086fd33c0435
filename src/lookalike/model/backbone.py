"""timm models as feature extractors with outputs of one shape."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import timm
import torch
from torch import Tensor, nn

from lookalike.data.image_size import ImageSize, size_text
from lookalike.errors import ModelError, one_line
from lookalike.model.architecture import (
    Architecture,
    check_has_weights,
    downloading,
    find_architecture,
    is_elsewhere,
)
from lookalike.model.dry_run import dry_run


class Backbone(nn.Module):
    """A timm model without its classifier, whose features are always (B, N, C).

    Attributes:
        name: as asked for.
        architecture: timm's, with the arguments that differ from its own.
        image_size: that it was built for, in pixels.
        dim: channels C of the feature map.
        has_class_token: of `forward`.
        data_config: mean, std, interpolation and crop_pct of the pretrained weights (timm).
    """

    def __init__(
        self,
        name: str | Architecture,
        image_size: ImageSize,
        *,
        download: bool = False,
        args: Mapping[str, Any] | None = None,
    ) -> None:
        """Build the model; `name` as `find_architecture` takes it.

        `args` are those of the model's constructor, as saved beside a name. With `download` the
        pretrained weights are loaded from timm's cache, the hub or the folder.

        Raises:
            ModelError: no such model, weights that cannot be had, or an impossible size.
        """
        super().__init__()
        found = name if isinstance(name, Architecture) else find_architecture(name)
        if args:
            found = replace(found, args=dict(args))
        self.name = found.name if isinstance(name, Architecture) else name
        self.architecture = found
        model: Any = _create(self.name, found, image_size, download)  # timm has no types
        self.model = model
        self.image_size = image_size
        self.dim = int(model.num_features)
        # Vision transformers put class and register tokens before the image's.
        self.num_prefix_tokens = int(getattr(model, "num_prefix_tokens", 0) or 0)
        self.has_class_token = getattr(model, "cls_token", None) is not None
        self.data_config: dict[str, Any] = timm.data.resolve_model_data_config(model)
        self._compiled: Any = None

    @property
    def saved_name(self) -> str:
        """A name that means the same where the hub or the folder is not at hand."""
        return self.architecture.name if is_elsewhere(self.name) else self.name

    def compile_features(self) -> None:
        """Run the model through torch.compile from now on; its weights keep their names."""
        self._compiled = torch.compile(self.model.forward_features)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features (B, N, C) and the class token (B, C) or None, for images (B, 3, H, W)."""
        maps = (self._compiled or self.model.forward_features)(images)
        if not isinstance(maps, Tensor):
            raise ModelError(
                f"model.backbone={self.name!r}: gives several maps of features, and lookalike "
                "takes one; choose another model.backbone"
            )
        if maps.ndim == 3:  # (B, prefix + N, C)
            token = maps[:, 0] if self.has_class_token else None
            return maps[:, self.num_prefix_tokens :], token
        if maps.ndim == 2:  # a model that pools in its own way
            return maps[:, None], None
        if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            return maps.flatten(1, 2), None
        return maps.flatten(2).transpose(1, 2), None

    def __getstate__(self) -> dict[str, Any]:
        # The compiled function uses this object's weights: copies and pickles go without.
        return {**super().__getstate__(), "_compiled": None}

    def check_size(self, size: ImageSize, setting: str = "model.image_size") -> None:
        """Pass one image of `size` through the model.

        Raises:
            ModelError: it fails, or gives no map of features; `setting` is named.
        """
        place = f"model.backbone={self.name!r} with {setting}={size_text(size)}"
        native = _native_size(self.data_config)
        other = "choose another model.backbone"
        if native != size:
            other = f"set {setting}={size_text(native)}, for which it was made, or {other}"
        try:
            features, _ = dry_run(self, size)
        except ModelError:
            raise
        except Exception as error:  # from any layer of any timm model
            raise ModelError(
                f"{place}: the network fails on images of this size ({one_line(error)}); {other}"
            ) from None
        if features.shape[2] != self.dim:
            raise ModelError(
                f"{place}: its map of features has {features.shape[2]} channels where timm "
                f"promises {self.dim}; {other}"
            )

    @property
    def is_convolutional(self) -> bool:
        """True where channels-last memory is faster: for convolutions, not for attention."""
        return self.num_prefix_tokens == 0 and getattr(self.model, "output_fmt", "NCHW") != "NHWC"


def _native_size(data_config: Mapping[str, Any]) -> ImageSize:
    height, width = data_config["input_size"][1:]
    return height if height == width else (height, width)


def _create(name: str, found: Architecture, image_size: ImageSize, download: bool) -> nn.Module:
    options = _accepted_options(name, found, image_size)
    if not download:
        return _timm_model(found, options, pretrained=False)
    check_has_weights(found)
    with downloading(name, found):
        return _timm_model(found, options, pretrained=True)


def _accepted_options(name: str, found: Architecture, image_size: ImageSize) -> dict[str, Any]:
    """Arguments with which timm builds this model, found on the meta device."""
    # Models with position embeddings must be given the size, others refuse the argument; most can
    # leave out their pooling, and some only have it beside `forward_features`.
    errors = []
    for more in (
        {"img_size": image_size, "global_pool": ""},
        # XCiT refuses sizes that its patches do not divide, and takes them in its forward pass.
        {"global_pool": ""},
        {"img_size": image_size},
        {},
    ):
        options: dict[str, Any] = {"num_classes": 0, **more}
        try:
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                _timm_model(found, options, pretrained=False)
        except Exception as error:  # an assertion, a type, a shape: timm has no class of its own
            errors.append(error)
        else:
            return options
    cause = next((error for error in errors if not isinstance(error, TypeError)), errors[-1])
    raise ModelError(
        f"model.backbone={name!r}: timm cannot build it for model.image_size="
        f"{size_text(image_size)}: {one_line(cause)}"
    )


def _timm_model(found: Architecture, options: dict[str, Any], *, pretrained: bool) -> nn.Module:
    arguments: dict[str, Any] = {**found.args, **options}
    if found.weights is not None:
        arguments["pretrained_cfg"] = dict(found.weights)
    with warnings.catch_warnings():
        # timm warns about names that moved; the user did not choose them.
        warnings.simplefilter("ignore")
        return timm.create_model(found.name, pretrained=pretrained, **arguments)
