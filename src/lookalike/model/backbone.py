"""timm models as feature extractors with outputs of one shape."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import timm
import torch
from timm.layers import NormMlpClassifierHead, PatchEmbed
from timm.models import group_parameters
from torch import Tensor, nn

from lookalike.data.image_size import ImageSize, height_width, size_text
from lookalike.data.loading.preprocess import Preprocess
from lookalike.errors import ModelError, one_line
from lookalike.log import logger
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
        num_prefix_tokens: class and register tokens, which are no places of the feature map.
        has_class_token: of the model.
        has_final_norm: the norm behind the model's pooling is applied to the feature map.
        earlier_map: index of the map whose quarters are averaged, None where that is not asked for.
        quarters_dim: length Q of the vector of quarters; 0 without them.
        quarters_stride: pixels from place to place of that map, None without it.
        data_config: mean, std, interpolation and crop_pct of the pretrained weights (timm).
    """

    def __init__(
        self,
        name: str | Architecture,
        image_size: ImageSize,
        *,
        download: bool = False,
        args: Mapping[str, Any] | None = None,
        attention_pool: bool = False,
        quarters: bool | int = False,
        final_norm: bool = True,
    ) -> None:
        """Build the model; `name` as `find_architecture` takes it.

        Args:
            image_size: that it is built for, in pixels.
            download: load the pretrained weights from timm's cache, the hub or the folder.
            args: of the model's constructor, as saved beside a name.
            attention_pool: keep the model's attention pool (SigLIP, PE), whose output `forward`
                then gives in place of the class token.
            quarters: give the averages over the four quarters of an earlier map: of this stride,
                or, with True, of the deepest one with `PLACES` places a side.
            final_norm: apply the norm that ConvNeXt and others have behind their pooling to each
                place of the feature map, as DINOv3's authors do; False for models saved before.

        Raises:
            ModelError: no such model, weights that cannot be had, an impossible size, no
                attention pool, or no earlier maps.
        """
        super().__init__()
        found = name if isinstance(name, Architecture) else find_architecture(name)
        if args:
            found = replace(found, args=dict(args))
        self.name = found.name if isinstance(name, Architecture) else name
        self.architecture = found
        # timm has no types
        model: Any = _create(self.name, found, image_size, download, attention_pool)
        self.model = model
        self.attention_pool = attention_pool
        self.image_size = image_size
        self.dim = int(model.num_features)
        # Vision transformers put class and register tokens before the image's.
        self.num_prefix_tokens = int(getattr(model, "num_prefix_tokens", 0) or 0)
        self.has_class_token = getattr(model, "cls_token", None) is not None
        head = getattr(model, "head", None)
        self.has_final_norm = (
            final_norm
            and isinstance(head, NormMlpClassifierHead)
            and not isinstance(head.norm, nn.Identity)
        )
        self.earlier_map: int | None = None
        self.quarters_dim = 0
        self.quarters_stride: int | None = None
        if quarters:
            if not self.has_quarters:
                raise ModelError(
                    f"model.pooling=quarters: {self.name} has no earlier, larger maps, as "
                    "networks of convolutions have; use gem, avg, max or gem+avg"
                )
            self.earlier_map = self._earlier_map(None if quarters is True else quarters)
            entry = model.feature_info[self.earlier_map]
            self.quarters_dim = 4 * int(entry["num_chs"])
            self.quarters_stride = int(entry["reduction"])
        self.data_config: dict[str, Any] = timm.data.resolve_model_data_config(model)
        self._compiled: Any = None

    @property
    def has_quarters(self) -> bool:
        """True where the model has maps of different sizes, and no class token."""
        if self.has_class_token or not hasattr(self.model, "forward_intermediates"):
            return False
        return len({entry["reduction"] for entry in getattr(self.model, "feature_info", ())}) > 1

    def _earlier_map(self, asked: int | None) -> int:
        """Index of the deepest map that has `PLACES` places a side, and is not the last size.

        Or of the deepest one of the stride that was asked for.
        """
        strides = [int(entry["reduction"]) for entry in self.model.feature_info]
        if asked is not None:
            if asked not in strides:
                raise ModelError(
                    f"model.quarters_stride={asked}: {self.name} has maps of stride "
                    f"{', '.join(map(str, dict.fromkeys(strides)))}"
                )
            return max(index for index, stride in enumerate(strides) if stride == asked)
        side = min(height_width(self.image_size))
        fitting = [
            index
            for index, stride in enumerate(strides)
            if stride < strides[-1] and side >= PLACES * stride
        ]
        return max(fitting, default=0)

    @property
    def saved_name(self) -> str:
        """A name that means the same where the hub or the folder is not at hand."""
        return self.architecture.name if is_elsewhere(self.name) else self.name

    def preprocess(self, crop_pct: float | None = None) -> Preprocess:
        """Preprocessing of the pretrained weights at our size; `crop_pct` in place of theirs."""
        return preprocess_of(self.data_config, self.image_size, crop_pct)

    def compile_features(self) -> None:
        """Run the model through torch.compile from now on; its weights keep their names."""
        self._compiled = torch.compile(self._maps)

    def checkpoint_activations(self) -> None:
        """Compute activations again in the backward pass from now on.

        Raises:
            ModelError: timm does not have it for this model.
        """
        try:
            self.model.set_grad_checkpointing(True)
        except (AttributeError, AssertionError, NotImplementedError):
            raise ModelError(
                f"model.gradient_checkpointing=true: timm does not have it for {self.name}; leave "
                "it out, or use train.accumulate for a batch that does not fit into memory"
            ) from None

    def layers(self) -> dict[str, int]:
        """Layer of each parameter, from 0 (the stem) on, as timm groups them.

        Raises:
            ModelError: timm does not group those of this model.
        """
        try:
            matcher = self.model.group_matcher(coarse=False)
        except AttributeError:
            raise ModelError(
                f"optim.layer_decay: timm does not group the layers of {self.name}; leave it out, "
                "or use optim.backbone_lr_factor"
            ) from None
        found = group_parameters(self.model, matcher, reverse=True)
        return {f"model.{name}": layer for name, layer in found.items()}

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features (B, N, C) and one vector or None, for images (B, 3, H, W).

        The vector is the class token (B, C), what the attention pool makes of all tokens (B, C),
        or the quarters (B, Q).
        """
        maps, quarters = (self._compiled or self._maps)(images)
        if not isinstance(maps, Tensor):
            raise ModelError(
                f"model.backbone={self.name!r}: gives several maps of features, and lookalike "
                "takes one; choose another model.backbone"
            )
        if maps.ndim == 3:  # (B, prefix + N, C)
            token = maps[:, 0] if self.has_class_token else quarters
            if self.attention_pool:
                token = self.model.pool(maps)
            return maps[:, self.num_prefix_tokens :], token
        if maps.ndim == 2:  # a model that pools in its own way
            return maps[:, None], quarters
        if self.has_final_norm:
            maps = self.model.head.norm(maps)
        if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            return maps.flatten(1, 2), quarters
        return maps.flatten(2).transpose(1, 2), quarters

    def _maps(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        # The model's last map in its own layout, and the quarters of an earlier one.
        if self.earlier_map is None:
            return self.model.forward_features(images), None
        maps, earlier = self.model.forward_intermediates(
            images,
            indices=[self.earlier_map],
            stop_early=False,  # the default of some models
        )
        return maps, quarter_means(earlier[0])

    def __getstate__(self) -> dict[str, Any]:
        # The compiled function uses this object's weights: copies and pickles go without.
        return {**super().__getstate__(), "_compiled": None}

    def check_size(self, size: ImageSize, setting: str = "model.image_size") -> None:
        """Pass one image of `size` through the model.

        Raises:
            ModelError: it fails, or gives no map of features; `setting` is named.
        """
        place = self._at(size, setting)
        try:
            features, _ = dry_run(self, size)
        except ModelError:
            raise
        except Exception as error:  # from any layer of any timm model
            raise self._failure(size, setting, error) from None
        if features.shape[2] != self.dim:
            raise ModelError(
                f"{place}: its map of features has {features.shape[2]} channels where timm "
                f"promises {self.dim}; {self._remedy(size, setting)}"
            )
        height, width = self._unseen(size)
        if height or width:
            logger.warning(
                "%s: its patches leave out %d rows and %d columns of pixels at the lower and right "
                "edge; a multiple of %s px uses the whole image",
                place, height, width, size_text(self.model.patch_embed.patch_size),
            )  # fmt: skip

    def _at(self, size: ImageSize, setting: str) -> str:
        return f"model.backbone={self.name!r} with {setting}={size_text(size)}"

    def _failure(self, size: ImageSize, setting: str, error: Exception) -> ModelError:
        """Error of a layer that fails on images of `size`."""
        return ModelError(
            f"{self._at(size, setting)}: the network fails on images of this size "
            f"({one_line(error)}); {self._remedy(size, setting)}"
        )

    def _remedy(self, size: ImageSize, setting: str) -> str:
        other = "choose another model.backbone"
        native = _native_size(self.data_config)
        if any(self._unseen(size)):
            return f"set {setting}={size_text(self._multiple(size))}, whole patches, or {other}"
        if native != size:
            return f"set {setting}={size_text(native)}, for which it was made, or {other}"
        return other

    def _unseen(self, size: ImageSize) -> tuple[int, int]:
        """Rows and columns of pixels that belong to no patch."""
        patches = getattr(self.model, "patch_embed", None)
        if not isinstance(patches, PatchEmbed) or patches.dynamic_img_pad:
            return 0, 0
        (height, width), (rows, columns) = height_width(size), patches.patch_size
        return height % rows, width % columns

    def _multiple(self, size: ImageSize) -> ImageSize:
        """The nearest size of whole patches."""
        sides = zip(height_width(size), self.model.patch_embed.patch_size, strict=True)
        height, width = (max(round(side / patch), 1) * patch for side, patch in sides)
        return height if height == width else (height, width)

    @cached_property
    def is_convolutional(self) -> bool:
        """True where channels-last memory is faster: for convolutions, not for attention.

        Raises:
            ModelError: the network fails on images of its size.
        """
        if self.num_prefix_tokens or getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            return False
        # Only its output shows whether a model has a map (B, C, H, W) or tokens (B, N, C). Found
        # once for all networks of this architecture: a pass of a large one takes a while.
        key = f"{self.architecture.name} {self.architecture.args}"
        if key not in _GIVES_MAP:
            _GIVES_MAP[key] = self._gives_map()
        return _GIVES_MAP[key]

    def _gives_map(self) -> bool:
        weight = next(self.parameters())
        shape = (1, 3, *height_width(self.image_size))
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                maps = self.model.forward_features(weight.new_zeros(shape))
        except Exception as error:  # from any layer: the recipe asks before `check_size` does
            raise self._failure(self.image_size, "model.image_size", error) from None
        finally:
            self.train(was_training)
        return isinstance(maps, Tensor) and maps.ndim == 4


def quarter_means(maps: Tensor) -> Tensor:
    """Averages (B, 4 C) over the upper left, upper right, lower left and lower right quarter.

    Of maps (B, C, H, W); the middle row or column of an odd side belongs to both halves.
    """
    height, width = maps.shape[2:]
    rows = slice((height + 1) // 2), slice(height // 2, height)
    columns = slice((width + 1) // 2), slice(width // 2, width)
    parts = [maps[:, :, row, column].mean(dim=(2, 3)) for row in rows for column in columns]
    return torch.cat(parts, dim=1)


def preprocess_of(
    data_config: Mapping[str, Any], image_size: ImageSize, crop_pct: float | None = None
) -> Preprocess:
    """Preprocessing by timm's settings of data; `crop_pct` in place of theirs."""
    return Preprocess(
        image_size=image_size,
        crop_pct=float(crop_pct or data_config["crop_pct"]),
        mean=tuple(data_config["mean"]),
        std=tuple(data_config["std"]),
        interpolation="bicubic" if data_config["interpolation"] == "bicubic" else "bilinear",
    )


PLACES = 8
"""Places a side that an earlier map has at least, where quarters of it are averaged."""

_GIVES_MAP: dict[str, bool] = {}


def _native_size(data_config: Mapping[str, Any]) -> ImageSize:
    height, width = data_config["input_size"][1:]
    return height if height == width else (height, width)


def _create(
    name: str, found: Architecture, image_size: ImageSize, download: bool, attention_pool: bool
) -> nn.Module:
    options = _accepted_options(name, found, image_size, attention_pool)
    if not download:
        return _timm_model(found, options, pretrained=False)
    check_has_weights(found)
    with downloading(name, found):
        if not _norm_moves(found, options):
            return _timm_model(found, options, pretrained=True)
        # Built as it was published, since otherwise its trained norm would be left out.
        published = {key: value for key, value in options.items() if key != "global_pool"}
        model: Any = _timm_model(found, published, pretrained=True)
        model.norm, model.fc_norm = model.fc_norm, nn.Identity()
        return model


def _accepted_options(
    name: str, found: Architecture, image_size: ImageSize, attention_pool: bool
) -> dict[str, Any]:
    """Arguments with which timm builds this model, found on the meta device."""
    if attention_pool and getattr(_on_meta(found, {}), "attn_pool", None) is None:
        raise ModelError(
            f"model.pooling=map: {name} has no attention pool, as SigLIP and PE have; use gem, "
            "avg, max or gem+avg"
        )
    # Models with position embeddings must be given the size, others refuse the argument; most can
    # leave out their pooling, and some only have it beside `forward_features`.
    pool = {"global_pool": "map" if attention_pool else ""}
    errors = []
    for more in (
        {"img_size": image_size, **pool},
        # XCiT refuses sizes that its patches do not divide, and takes them in its forward pass.
        pool,
        {"img_size": image_size},
        {},
    ):
        options: dict[str, Any] = {"num_classes": 0, **more}
        try:
            _on_meta(found, options)
        except Exception as error:  # an assertion, a type, a shape: timm has no class of its own
            errors.append(error)
        else:
            return options
    cause = next((error for error in errors if not isinstance(error, TypeError)), errors[-1])
    raise ModelError(
        f"model.backbone={name!r}: timm cannot build it for model.image_size="
        f"{size_text(image_size)}: {one_line(cause)}"
    )


def _norm_moves(found: Architecture, options: dict[str, Any]) -> bool:
    """True where the published model has its last norm behind its pooling, and ours before it.

    Models that average (EVA-02, BEiT, some ViTs) call it `fc_norm` there and `norm` here: timm
    would leave the trained one out of a model without pooling.
    """
    if "global_pool" not in options:
        return False
    published, ours = _on_meta(found, {}), _on_meta(found, options)
    return _has_norm(published, "fc_norm") and not _has_norm(ours, "fc_norm")


def _has_norm(model: nn.Module, name: str) -> bool:
    return not isinstance(getattr(model, name, nn.Identity()), nn.Identity)


def _on_meta(found: Architecture, options: dict[str, Any]) -> nn.Module:
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return _timm_model(found, options, pretrained=False)


def _timm_model(found: Architecture, options: dict[str, Any], *, pretrained: bool) -> nn.Module:
    arguments: dict[str, Any] = {**found.args, **options}
    if found.weights is not None:
        arguments["pretrained_cfg"] = dict(found.weights)
    with warnings.catch_warnings():
        # timm warns about names that moved; the user did not choose them.
        warnings.simplefilter("ignore")
        return timm.create_model(found.name, pretrained=pretrained, **arguments)
