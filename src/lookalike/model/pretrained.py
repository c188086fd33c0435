"""Weights from files, without unpickling code, matched with a model by name and shape."""

import io
import pickle
import sys
import warnings
import zipfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import safetensors.torch
import torch
from torch import Tensor, nn

from lookalike import storage
from lookalike.errors import ModelError

_CLASSIFIERS = ("fc.", "head.", "classifier.", "head_dist.", "last_linear.")
_PREFERRED = ("teacher", "encoder_q")  # of copies that fit equally well, the one to use

ENOUGH = 0.9
"""Least share of the parameters' elements in a file; with less it is of another model."""

_OTHER = 0.1
"""Most of them in another shape or beyond the model; with more the file is of another model."""

_DEEPEST = 8  # mappings within mappings
_TRIED = 4  # prefixes for which a family's own renaming is tried


@dataclass(frozen=True)
class Match:
    """Result of loading a weights file into a model.

    Attributes:
        matched: names of tensors that were loaded.
        missing: names of the model's tensors that the file lacks, or has in another shape.
        unused: names of the file's tensors below `prefix` that the model does not have.
        misshapen: lines `name: (file's shape), the model has (shape)`.
        prefix: of the names in the file.
        share: of the elements of the model's parameters that was loaded.
        alternatives: other prefixes below which the file holds as much of the model.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    misshapen: tuple[str, ...]
    prefix: str = ""
    share: float = 1.0
    alternatives: tuple[str, ...] = ()

    def summary(self) -> str:
        """One line; the names too, where they are few."""
        total = len(self.matched) + len(self.missing)
        text = f"{len(self.matched)} of {total} tensors matched"
        if self.prefix:
            text += f" (below {self.prefix!r} in the file"
            if self.alternatives:
                text += f", preferred to {', '.join(map(repr, self.alternatives))}"
            text += ")"
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
            # torch warns of old pickle protocols; the errors below name the fault.
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


def load_into(
    model: nn.Module, weights: Mapping[str, Tensor], name: str, *, unused: Collection[str] = ()
) -> Match:
    """Copy the tensors of `weights`, of the file `name`, that fit into `model`, in place.

    The prefix of the model's names in the file (of wrappers, `state_dict.module.`, `encoder_q.`)
    is found from the file: it is the one below which most elements of the model's parameters lie
    by name and shape, before or after timm's renaming of older layouts. `unused` are names of
    parameters that features do not depend on, which do not count.

    Raises:
        ModelError: the file is of another architecture, or holds numbers that are not finite.
    """
    own = model.state_dict()
    counted = {
        key: value.numel()
        for key, value in model.named_parameters()
        if key not in unused and not key.startswith(_CLASSIFIERS)
    }
    prefix, renamed, alternatives = _best_reading(model, counted, weights)
    matched, missing, misshapen = [], [], []
    for key, tensor in own.items():
        if key not in renamed:
            missing.append(key)
        elif renamed[key].shape != tensor.shape:
            missing.append(key)
            misshapen.append(f"{key}: {_shape(renamed[key])}, the model has {_shape(tensor)}")
        else:
            matched.append(key)
    match = Match(
        matched=tuple(matched),
        missing=tuple(missing),
        unused=tuple(key for key in renamed if key not in own),
        misshapen=tuple(misshapen),
        prefix=prefix,
        share=_elements(counted, matched) / max(sum(counted.values()), 1),
        alternatives=alternatives,
    )
    _check(counted, match, renamed, name)
    model.load_state_dict({key: renamed[key] for key in matched}, strict=False)
    return match


def _check(
    counted: Mapping[str, int], match: Match, renamed: Mapping[str, Tensor], name: str
) -> None:
    whole = max(sum(counted.values()), 1)
    other = _elements(counted, [line.partition(":")[0] for line in match.misshapen]) / whole
    modules = {key.partition(".")[0] for key in counted}
    beyond = [
        key
        for key in match.unused
        if key.partition(".")[0] in modules and not key.startswith(_CLASSIFIERS)
    ]
    more = sum(renamed[key].numel() for key in beyond) / whole
    if match.share < ENOUGH or other > _OTHER or more > _OTHER:
        detail = ""
        if match.misshapen:
            detail = f"; e.g. {match.misshapen[0]}"
        elif more > _OTHER:
            detail = f"; e.g. {beyond[0]} is no part of this backbone"
        raise ModelError(
            f"{name} does not fit this backbone: {match.summary()}; they hold {match.share:.0%} of "
            f"its parameters{detail}. The file is of another architecture: give its model.backbone"
        )
    for key in match.matched:
        if not bool(torch.isfinite(renamed[key]).all()):
            raise ModelError(
                f"{name}: {match.prefix}{key} holds numbers that are not finite; the file is of a "
                "training that failed, or damaged"
            )


def lacks_weights(match: Match) -> bool:
    """True where tensors beyond the classifier, which is never used, did not match."""
    return bool(match.missing) or any(not key.startswith(_CLASSIFIERS) for key in match.unused)


def _tensors(content: object, name: str) -> dict[str, Tensor]:
    """All tensors of nested mappings, by their keys joined with dots."""
    found: dict[str, Tensor] = {}
    waiting: list[tuple[str, object]] = [("", content)]
    while waiting:
        prefix, value = waiting.pop()
        if isinstance(value, Tensor):
            found[prefix] = value
        elif isinstance(value, Mapping) and prefix.count(".") < _DEEPEST:
            inner = [(f"{prefix}.{key}" if prefix else str(key), v) for key, v in value.items()]
            waiting += reversed(inner)
    found.pop("", None)
    if not found:
        raise ModelError(f"{name}: holds no named tensors")
    return found


def _best_reading(
    model: nn.Module, counted: Mapping[str, int], weights: Mapping[str, Tensor]
) -> tuple[str, dict[str, Tensor], tuple[str, ...]]:
    """The prefix below which most of the model lies, the tensors there, and equal prefixes."""
    own = model.state_dict()
    found: list[tuple[int, str, dict[str, Tensor]]] = []
    for prefix in _prefixes(own, weights):
        below = {
            key.removeprefix(prefix): value
            for key, value in weights.items()
            if key.startswith(prefix)
        }
        for renamed in (below, _adapted(model, below)):
            if renamed is not None:
                renamed = _last_norm_first(own, renamed)
                fitting = [key for key, value in own.items() if _has(renamed, key, value)]
                found.append((_elements(counted, fitting), prefix, renamed))
    most = max(fitting for fitting, _, _ in found)
    equal = [(prefix, renamed) for fitting, prefix, renamed in found if fitting == most]
    # Of copies the first, but for the names of self-supervised training; no average of weights.
    prefix, renamed = next(
        (one for word in _PREFERRED for one in equal if word in one[0].lower()),
        next((one for one in equal if "ema" not in one[0].lower()), equal[0]),
    )
    others = dict.fromkeys(other for other, _ in equal if other != prefix) if most else {}
    return prefix, renamed, tuple(others)


def _prefixes(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    """Possible prefixes of the model's names in the file, the likeliest first."""
    exact: dict[str, int] = {}
    named: dict[str, int] = {}
    for key, value in weights.items():
        parts = key.split(".")
        for at in range(len(parts)):
            name = ".".join(parts[at:])
            if name not in own:
                continue
            prefix = key[: len(key) - len(name)]
            named[prefix] = named.get(prefix, 0) + 1
            if own[name].shape == value.shape:
                exact[prefix] = exact.get(prefix, 0) + value.numel()
    likely = [
        prefix
        for score in (exact, named)
        for prefix in sorted(score, key=lambda p: -score[p])[:_TRIED]
    ]
    # A layout of timm's renaming alone shares few names: the prefix of most of the file.
    common, below = "", list(weights)
    while below:
        likely.append(common)
        heads: dict[str, int] = {}
        for key in below:
            head = key.removeprefix(common).partition(".")[0] + "."
            heads[head] = heads.get(head, 0) + weights[key].numel()
        head, size = max(heads.items(), key=lambda item: item[1])
        if size < ENOUGH * sum(heads.values()):
            break
        common += head
        below = [key for key in below if key.startswith(common)]
    return list(dict.fromkeys(likely))


def _adapted(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The weights with position embeddings resized and old layouts renamed, if timm can."""
    adapt = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if adapt is None:
        return None
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of how timm interpolates
            adapted = adapt(dict(weights), model)
    except Exception:  # of any family of timm: the file has another layout
        return None
    return {key: value for key, value in dict(adapted).items() if isinstance(value, Tensor)}


def _last_norm_first(own: Mapping[str, Tensor], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights with the norm behind a published model's pooling as the one before ours."""
    moves = "norm.weight" in own and "fc_norm.weight" not in own and "norm.weight" not in weights
    if not moves:
        return weights
    return {
        key.replace("fc_norm.", "norm.") if key.startswith("fc_norm.") else key: value
        for key, value in weights.items()
    }


def _has(weights: Mapping[str, Tensor], key: str, value: Tensor) -> bool:
    return key in weights and weights[key].shape == value.shape


def _elements(counted: Mapping[str, int], names: Iterable[str]) -> int:
    """Elements of the named parameters; running statistics fit wherever a channel count does."""
    return sum(counted.get(name, 0) for name in names)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
