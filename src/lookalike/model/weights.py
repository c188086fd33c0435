"""Weights from files, without unpickling code: which tensors fit, and which do not."""

import io
import pickle
import sys
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass

import safetensors.torch
import torch
from torch import Tensor, nn

from lookalike import storage
from lookalike.errors import ModelError

_WRAPPERS = ("state_dict", "model_state_dict", "model", "state_dict_ema", "teacher", "student")
_PREFIXES = ("module.", "backbone.", "model.", "encoder.", "_orig_mod.")
_CLASSIFIERS = ("fc.", "head.", "classifier.", "head_dist.", "last_linear.")

ENOUGH = 0.5
"""Least part of the model's tensors that a file must bring, or it plainly does not fit."""


@dataclass(frozen=True)
class Match:
    """What a weights file did to a model.

    Attributes:
        matched: names of tensors that were loaded.
        missing: names of the model's tensors that the file lacks, or has in another shape.
        unused: names of the file's tensors that the model has no place for.
        misshapen: lines `name: (file's shape), the model has (shape)`.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    misshapen: tuple[str, ...]

    def summary(self) -> str:
        """One line; the names too, where they are few."""
        total = len(self.matched) + len(self.missing)
        text = f"{len(self.matched)} of {total} tensors matched"
        for what, names in (("missing", self.missing), ("not used", self.unused)):
            if names:
                shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
                text += f"; {len(names)} {what}: {shown}"
        return text


def read_weights(uri: str) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` or `.pth` file by name.

    A `.pth` goes through torch's restricted loader (`weights_only=True`), which builds tensors
    and containers and runs nothing.

    Raises:
        ModelError: the file is neither, is broken, or would need code to be run.
        StorageError: it cannot be read.
    """
    data = storage.read_bytes(uri)
    name = storage.public(uri)
    if uri.endswith(".safetensors"):
        try:
            return safetensors.torch.load(data)
        except Exception as error:  # safetensors raises its own, untyped from Rust
            raise ModelError(f"{name}: not a safetensors file ({error})") from None
    try:
        with warnings.catch_warnings():
            # torch warns of old pickle protocols; we say what is wrong ourselves.
            warnings.simplefilter("ignore")
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ModelError(
            f"{name}: holds Python objects, or is no weights file; only tensors are loaded, "
            "because unpickling runs code. Save model.state_dict(), or convert to .safetensors"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        cause = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(f"{name}: not a weights file ({cause})") from None
    return _tensors(content, name)


def load_into(model: nn.Module, weights: Mapping[str, Tensor], name: str) -> Match:
    """Copy the tensors of `weights` that fit into `model`, in place.

    Names are compared as they are, and with the usual wrappers' prefixes (`module.`,
    `backbone.`, ...) taken off.

    Raises:
        ModelError: fewer than half of the model's tensors are there.
    """
    own = model.state_dict()
    adapted = _adapt(model, weights)
    prefix = max(_prefixes_of(adapted), key=lambda p: _count_fitting(own, adapted, p))
    renamed = {key.removeprefix(prefix): value for key, value in adapted.items()}
    matched, missing, misshapen = [], [], []
    for key, tensor in own.items():
        if key not in renamed:
            missing.append(key)
        elif renamed[key].shape != tensor.shape:
            missing.append(key)
            misshapen.append(f"{key}: {_shape(renamed[key])}, the model has {_shape(tensor)}")
        else:
            matched.append(key)
    unused = [key for key in renamed if key not in own]
    match = Match(tuple(matched), tuple(missing), tuple(unused), tuple(misshapen))
    if len(matched) < ENOUGH * len(own):
        detail = f"; e.g. {misshapen[0]}" if misshapen else ""
        raise ModelError(f"{name} does not fit this backbone: {match.summary()}{detail}")
    model.load_state_dict({key: renamed[key] for key in matched}, strict=False)
    return match


def worth_saying(match: Match) -> bool:
    """Whether tensors beyond the classifier, which we never use, did not match."""
    return bool(match.missing) or any(not key.startswith(_CLASSIFIERS) for key in match.unused)


def _tensors(content: object, name: str) -> dict[str, Tensor]:
    for _ in range(2):
        if not isinstance(content, Mapping):
            break
        inner = next((content[k] for k in _WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            break
        content = inner
    found = (
        {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not found:
        raise ModelError(f"{name}: holds no named tensors")
    return found


def _adapt(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Let timm resize position embeddings and rename old layouts, where the model knows how."""
    adapt = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    prefix = max(
        _prefixes_of(weights), key=lambda p: _count_fitting(model.state_dict(), weights, p)
    )
    plain = {key.removeprefix(prefix): value for key, value in weights.items()}
    if adapt is None:
        return plain
    try:
        return dict(adapt(plain, model))
    except (KeyError, AttributeError, RuntimeError, TypeError, AssertionError):
        # The file has another layout than this family's; the plain names decide then.
        return plain


def _prefixes_of(weights: Mapping[str, Tensor]) -> list[str]:
    found = [""]
    for outer in ("", *_PREFIXES):
        for inner in ("", *_PREFIXES):
            prefix = outer + inner
            if prefix and any(key.startswith(prefix) for key in weights):
                found.append(prefix)
    return found


def _count_fitting(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], prefix: str) -> int:
    return sum(key.removeprefix(prefix) in own for key in weights)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
