"""Embedder, the artefact of a training: pixels in, embedding out, preprocessing included."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lookalike import storage
from lookalike.data.image_size import ImageSize
from lookalike.data.loading.preprocess import Preprocess
from lookalike.errors import ModelError, RunError
from lookalike.model.architecture import Architecture
from lookalike.model.backbone import Backbone
from lookalike.model.dry_run import unused_parameters
from lookalike.model.freed_memory import keep_freed_memory
from lookalike.model.lora import merged_state
from lookalike.model.neck import BESIDE, Neck
from lookalike.model.pretrained import Match, load_into, read_weights
from lookalike.model.projection import Projection
from lookalike.model.saved_model import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    is_as_described,
    load_tensors,
    read_saved,
    read_tensors,
)
from lookalike.model.user_images import Images, embedded, encode, prepared
from lookalike.storage import Place
from lookalike.storage.atomic import replacing
from lookalike.storage.local_files import digest_of, local_folder, writing


class Embedder(nn.Module):
    """Backbone, neck and the preprocessing that belongs to them.

    `forward` gives raw embeddings for training; `unit` and `embed` give unit vectors for use.

    Attributes:
        preprocess: from an image to the network's input.
        embedding_dim: numbers D of an embedding, after `projection`.
        mirror: a unit vector is the mean of those of the image and its mirror image.
        projection: a linear map behind the unit vector.
        normalize: False where the network chooses the length of raw embeddings; see `Neck`.
        match: of a custom weights file, when one was loaded.
        exported_from: for an export, the fingerprint of the trained model by its own; as long as
            these are its weights.
    """

    def __init__(
        self,
        backbone: Backbone,
        embedding_dim: int,
        pooling: str,
        preprocess: Preprocess,
        *,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        parts = pooling.split("+")
        if "cls" in parts and not backbone.has_class_token:
            raise ModelError(
                f"model.pooling={pooling!r}: {backbone.name} has no class token; "
                "use gem, avg, max or gem+avg"
            )
        if len(beside := [part for part in parts if part in BESIDE]) > 1:
            raise ModelError(
                f"model.pooling={pooling!r}: {' and '.join(beside)} exclude each other; take one"
            )
        self.backbone = backbone
        self.neck = Neck(
            backbone.dim,
            embedding_dim,
            pooling,
            quarters_dim=backbone.quarters_dim,
            normalize=normalize,
        )
        self.embedding_dim = embedding_dim
        self.pooling = pooling
        self.normalize = normalize
        self.mirror = False
        self.projection: Projection | None = None
        self.preprocess = preprocess
        self.match: Match | None = None
        self.exported_from: dict[str, str] | None = None

    @classmethod
    def create(
        cls,
        backbone: str | Architecture = "resnet50",
        *,
        pretrained: bool | str = True,
        image_size: ImageSize = 224,
        crop_pct: float | None = None,
        embedding_dim: int = 1536,
        backbone_dim: int | None = None,
        pooling: str = "gem+avg",
        quarters_stride: int | None = None,
        normalize: bool = True,
    ) -> Embedder:
        """A new embedder.

        Args:
            backbone: one of `lookalike.model.BACKBONES`, an alias, any timm name,
                `hf-hub:OWNER/REPOSITORY` or `local-dir:FOLDER`.
            pretrained: True for timm's weights, False for a random start, or the path or URI of
                a `.pth` or `.safetensors` file.
            image_size: side of the network's square input, or (height, width), in pixels.
            crop_pct: part of the resized image that the centre crop keeps; None for timm's.
            embedding_dim: numbers D of an embedding.
            backbone_dim: channels of the feature map, to be checked; None to infer.
            pooling: gem, avg, max, cls, map, quarters, or several joined by `+`.
            quarters_stride: of the map whose quarters are averaged; None to choose it by the
                image size.
            normalize: False lets the network choose the length of raw embeddings, for losses that
                read it (`Margin.uses_length`).

        Raises:
            ModelError: an unknown name, weights that cannot be had or do not fit, a
                contradiction.
        """
        trunk = Backbone(
            backbone,
            image_size,
            download=pretrained is True,
            attention_pool="map" in pooling.split("+"),
            quarters="quarters" in pooling.split("+") and (quarters_stride or True),
        )
        trunk.check_size(image_size)
        if backbone_dim is not None and backbone_dim != trunk.dim:
            raise ModelError(
                f"model.backbone_dim={backbone_dim} contradicts {backbone}, whose feature map has "
                f"{trunk.dim} channels; set {trunk.dim} or leave it out"
            )
        match = None
        if isinstance(pretrained, str):
            weights = read_weights(pretrained)
            unused = [name.removeprefix("model.") for name in unused_parameters(trunk, image_size)]
            match = load_into(trunk.model, weights, storage.public(pretrained), unused=unused)
        preprocess = trunk.preprocess(crop_pct)
        embedder = cls(trunk, embedding_dim, pooling, preprocess, normalize=normalize)
        embedder.match = match
        return embedder

    def features(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features (B, N, C) and the backbone's vector beside them or None, for uint8 images."""
        normal = self.preprocess.normalise(images).to(self.dtype)
        return self.backbone(normal)

    def forward(self, images: Tensor) -> Tensor:
        """Raw embeddings (B, D) of uint8 images (B, 3, S, S)."""
        features, beside = self.features(images)
        return self.neck(features, beside)

    def set_postprocessing(self, *, mirror: bool, projection: Projection | None) -> None:
        """Set the steps of `unit` behind the network; see the attributes."""
        self.mirror = mirror
        self.projection = projection
        self.embedding_dim = len(projection.matrix) if projection else self.neck.out_dim

    def unit(self, images: Tensor) -> Tensor:
        """Unit vectors (B, D) float32 of preprocessed uint8 images (B, 3, S, S) on our device."""
        vectors = F.normalize(self(images).float(), dim=1)
        if self.mirror:
            vectors = vectors + F.normalize(self(images.flip(-1)).float(), dim=1)
            vectors = F.normalize(vectors, dim=1)
        return vectors if self.projection is None else self.projection(vectors)

    @torch.inference_mode()
    def embed_batch(self, images: Tensor) -> Tensor:
        """Unit vectors (B, D) float32 of preprocessed uint8 images (B, 3, S, S)."""
        if self.device.type == "cpu":
            keep_freed_memory()
        was_training = self.training
        self.eval()
        try:
            return self.unit(images.to(self.device, non_blocking=True))
        finally:
            self.train(was_training)

    def embed(self, images: Images, *, batch_size: int = 64, threads: int = 4) -> np.ndarray:
        """Unit vectors of images.

        Args:
            images: one image, several in a list or an iterator, or a batch in one array or tensor.
                An image is a path, a URI, encoded bytes, an open binary file, a PIL image of any
                mode, or an array or tensor as `data.decoding.image_arrays` accepts;
                of any size.
            batch_size: images at a time.
            threads: threads that read and decode.

        Returns:
            (N, D) float32, of one image (D,); the cosine of two images is the dot product of their
            vectors.

        Raises:
            DataError: an image cannot be decoded; nothing is skipped silently.
            StorageError: or cannot be fetched.
            NotFiniteError: the model gives NaN or infinity for some.
        """

        def some(images: Sequence[Any]) -> Iterator[np.ndarray]:
            with closing(prepared(images, self.preprocess, batch_size, threads)) as batches:
                for _, batch in batches:
                    yield self.embed_batch(batch).cpu().numpy()

        return embedded(images, self.embedding_dim, batch_size, threads, some)

    encode = encode

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the network's weights."""
        return next(self.parameters()).dtype

    def describe(self) -> dict[str, Any]:
        """Settings that `Embedder.load` needs beside the weights."""
        described = {
            "format": "lookalike embedder 1",
            "backbone": self.backbone.saved_name,
            "backbone_dim": self.backbone.dim,
            "embedding_dim": self.neck.out_dim,
            "pooling": self.pooling,
            "free_length": not self.normalize,
            "preprocess": self.preprocess.to_dict(),
        }
        if self.backbone.architecture.args:
            described["backbone_args"] = dict(self.backbone.architecture.args)
        if self.backbone.has_final_norm:
            described["final_norm"] = True
        if self.backbone.quarters_stride is not None:
            described["quarters_stride"] = self.backbone.quarters_stride
        if self.mirror:
            described["mirror"] = True
        if self.projection is not None:
            described["projected_dim"] = self.embedding_dim
        return described

    def weights(self) -> dict[str, Tensor]:
        """The tensors to save, by name, contiguous and on the CPU, low-rank matrices merged."""
        return {
            name: tensor.detach().to("cpu", memory_format=torch.contiguous_format).contiguous()
            for name, tensor in merged_state(self).items()
        }

    def fingerprint(self) -> str:
        """32 hexadecimal digits that two embedders share if they are the same to the bit.

        Of the description (network, pooling, preprocessing) and of all weights: vectors of
        embedders with different fingerprints are not to be compared.
        """
        return digest_of_tensors(self.describe(), self.weights())

    def trained_fingerprint(self) -> str:
        """The fingerprint shared by models whose vectors may be compared.

        Its own, or, of an export with a small certified drift, that of the trained model.
        """
        own = self.fingerprint()
        return own if self.exported_from is None else self.exported_from.get(own, own)

    def save(self, folder: Place) -> None:
        """Write config.json and model.safetensors into `folder`, made when it is not there.

        Raises:
            ConfigError: `folder` is a URI.
            StorageError: the disk refuses; what was there before stays.
        """
        folder = local_folder(folder, "a saved model")
        # The weights are renamed first, and `load` reads again where it came in between.
        with (
            writing(folder),
            replacing(folder / CONFIG_FILE) as config,
            replacing(folder / WEIGHTS_FILE) as weights,
        ):
            safetensors.torch.save_file(self.weights(), weights)
            described = {**self.describe(), "sha256": digest_of(weights)}
            config.write_text(json.dumps(described, indent=2) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Place, device: str | torch.device = "cpu") -> Embedder:
        """The embedder that `save` wrote, in evaluation mode.

        Raises:
            RunError: `folder` holds no embedder, or a broken or damaged one.
        """
        folder = storage.path_of(folder)
        described = read_saved(folder)
        pauses = iter((0.1, 0.5))  # a training may be replacing both files
        while not is_as_described(folder, described):
            if (pause := next(pauses, None)) is None:
                raise RunError(
                    f"{folder / WEIGHTS_FILE}: damaged: its bytes are not those that "
                    f"{CONFIG_FILE} was written for; take it from a copy, or export it again"
                )
            time.sleep(pause)
            described = read_saved(folder)
        tensors = read_tensors(folder, described)
        preprocess = Preprocess(**dict(described.preprocess))
        try:
            backbone = Backbone(
                described.backbone,
                preprocess.image_size,
                args=described.backbone_args,
                attention_pool="map" in described.pooling.split("+"),
                quarters=described.quarters_stride or False,
                final_norm=described.final_norm,
            )
            if backbone.dim != described.backbone_dim:
                raise ModelError(
                    f"backbone_dim={described.backbone_dim}, but {described.backbone} has "
                    f"{backbone.dim} channels"
                )
            embedder = cls(
                backbone,
                described.embedding_dim,
                described.pooling,
                preprocess,
                normalize=not described.free_length,
            )
        except ModelError as error:
            raise RunError(f"{folder / CONFIG_FILE}: {error}") from None
        projection = None
        if described.projected_dim is not None:
            projection = Projection.empty(described.embedding_dim, described.projected_dim)
        embedder.set_postprocessing(mirror=described.mirror, projection=projection)
        load_tensors(embedder, tensors, folder / WEIGHTS_FILE)
        return embedder.to(device).eval()


def digest_of_tensors(described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """32 hexadecimal digits of a description and of tensors on the CPU, to the bit."""
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]
