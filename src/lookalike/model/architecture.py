"""Architectures of timm by name, from its registry, the Hugging Face hub or a folder."""

from __future__ import annotations

import difflib
import json
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import timm

from lookalike.errors import ModelError, one_line
from lookalike.model import BACKBONES, CURRENT_BACKBONES, timm_name
from lookalike.storage import local_path

HUB, FOLDER = "hf-hub:", "local-dir:"
"""timm's prefixes: a repository of the Hugging Face hub, and a folder of the same files."""

_PROBE_SECONDS = 4.0  # for the hub's first answer; after it the client's own timeouts hold
_WAYS_OUT = (
    "Options: connect once so that they are cached; set model.pretrained=FILE.safetensors (or "
    ".pth); or model.pretrained=false for random initialisation"
)


@dataclass(frozen=True)
class Architecture:
    """A model of timm's registry, with the description of a hub repository or of a folder.

    Attributes:
        name: in timm's registry.
        args: of its constructor, beyond the defaults.
        weights: timm's `pretrained_cfg`, where it is not the registry's.
    """

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Any] | None = None


def is_elsewhere(name: str) -> bool:
    """True for the name of a hub repository or of a folder."""
    return name.startswith((HUB, FOLDER)) and not name.endswith(":")


def find_architecture(name: str) -> Architecture:
    """The architecture of a `model.backbone`; a hub repository's description is downloaded.

    `name` is one of BACKBONES, an alias, a timm name, `hf-hub:OWNER/REPOSITORY` or
    `local-dir:FOLDER`.

    Raises:
        ModelError: there is none of that name, or its description cannot be read.
    """
    if is_elsewhere(name):
        return _described(name)
    target = _in_timm(timm_name(name))
    bare, dot, tag = target.partition(".")
    if not timm.is_model(bare):
        if target != name:
            raise ModelError(
                f"model.backbone={name!r} is {target} of timm, which timm {timm.__version__} does "
                "not have; install a newer timm"
            )
        known = {*BACKBONES, *CURRENT_BACKBONES, *timm.list_models()}
        close = difflib.get_close_matches(name, known, 3, 0.5)
        hint = f"; close names: {', '.join(close)}" if close else ""
        raise ModelError(
            f"model.backbone={name!r} is neither one of {', '.join(BACKBONES)} "
            f"nor a timm model{hint}; a hub repository is written {HUB}OWNER/REPOSITORY, a folder "
            f"{FOLDER}FOLDER"
        )
    if dot:
        tags = [full.partition(".")[2] for full in timm.models.get_arch_pretrained_cfgs(bare)]
        if tag not in tags:
            choices = ", ".join(f"{bare}.{one}" for one in tags if one) or "none"
            raise ModelError(
                f"model.backbone={name!r}: timm has no weights {tag!r} of {bare}; give one of "
                f"{choices}, or {bare} for the usual ones"
            )
    return Architecture(target)


def _in_timm(name: str) -> str:
    """Timm's spelling, as `convnext_tiny` for `ConvNeXt-Tiny`; `name` where it has none."""
    base, dot, tag = name.partition(".")
    if timm.is_model(base):
        return name
    simple = "".join(filter(str.isalnum, base.lower()))
    found = [model for model in timm.list_models() if model.replace("_", "") == simple]
    return found[0] + dot + tag if len(found) == 1 else name


def _described(name: str) -> Architecture:
    """The architecture of the config.json in a hub repository or a folder."""
    try:
        described = json.loads(_config_file(name).read_text("utf-8"))
        target = described["architecture"]
        args = dict(described.get("model_args") or {})
        weights = dict(described.get("pretrained_cfg") or described)  # older files have one level
    except ModelError:
        raise
    except Exception as error:  # the hub's client has dozens, and any file may be in its place
        raise ModelError(
            f"model.backbone={name!r}: its config.json cannot be read as timm writes it "
            f"({type(error).__name__}: {one_line(error)})"
        ) from None
    if not isinstance(target, str) or not timm.is_model(target):
        raise ModelError(
            f"model.backbone={name!r}: its config.json names the architecture {target!r}, which "
            f"timm {timm.__version__} does not have"
        )
    if args.get("in_chans", 3) != 3:
        raise ModelError(
            f"model.backbone={name!r}: takes images of {args['in_chans']} channels; lookalike "
            "gives 3 (RGB)"
        )
    for ours in ("num_classes", "global_pool", "img_size", "in_chans"):
        args.pop(ours, None)
    for key in ("num_classes", "label_names"):
        if key in described:
            weights[key] = described[key]
    if name.startswith(HUB):
        weights |= {"hf_hub_id": name.removeprefix(HUB), "source": "hf-hub"}
    else:
        weights |= {"file": str(_folder(name)), "source": "local-dir"}
    return Architecture(target, args, weights)


def _config_file(name: str) -> Path:
    if name.startswith(FOLDER):
        file = _folder(name) / "config.json"
        if not file.is_file():
            raise ModelError(
                f"model.backbone={name!r}: no config.json in {file.parent}; give a folder with "
                "config.json and model.safetensors, as timm's save_for_hf writes it"
            )
        return file
    repository, _, revision = name.removeprefix(HUB).partition("@")
    way_out = "Connect once so that it is cached, or give the name of a timm model"
    with hub_calls(f"the config.json of {repository}", way_out):
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(repository, "config.json", revision=revision or None))


def _folder(name: str) -> Path:
    return Path(local_path(name.removeprefix(FOLDER))).expanduser().absolute()


def check_has_weights(architecture: Architecture) -> None:
    """Raise a ModelError where timm has no weights of it."""
    weights = architecture.weights
    if weights is None:
        found = timm.models.get_pretrained_cfg(architecture.name)
        weights = {} if found is None else found.to_dict()
    if not any(weights.get(key) for key in ("url", "file", "hf_hub_id", "state_dict")):
        raise ModelError(
            f"timm has no pretrained weights for {architecture.name!r}; "
            "set model.pretrained to a weights file, or to false for random initialisation"
        )


@contextmanager
def downloading(name: str, architecture: Architecture) -> Iterator[None]:
    """Turn failures to get timm's weights, or to fit them, into a ModelError of one line."""
    at_hand = architecture.weights is not None and "file" in architecture.weights
    try:
        with nullcontext() if at_hand else hub_calls(f"the weights of {name}", _WAYS_OUT):
            yield
    except ModelError:
        raise
    except Exception as error:  # the hub's client raises dozens of classes
        where = f"from {name}" if is_elsewhere(name) else "from timm's hub"
        raise ModelError(
            f"the pretrained weights of {name!r} are not available {where} "
            f"({type(error).__name__}: {one_line(error)}). {_WAYS_OUT}"
        ) from None


@contextmanager
def hub_calls(needed: str, way_out: str) -> Iterator[None]:
    """Calls of the hub's client: quiet, and without a minute of retries where nothing answers.

    Cached files are used either way. `needed` and `way_out` are phrases of the error.

    Raises:
        ModelError: the hub does not answer, and the file is not cached.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "timm", "httpx")]
    levels = [logger.level for logger in loggers]
    offline, reason = constants.HF_HUB_OFFLINE, "HF_HUB_OFFLINE is set"
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        if not offline:
            reason = _unreachable(constants.ENDPOINT)
            constants.HF_HUB_OFFLINE = bool(reason)
        yield
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise ModelError(
            f"{urlsplit(constants.ENDPOINT).hostname} cannot be reached ({reason}), and {needed} "
            f"are not in the cache. {way_out}"
        ) from None
    finally:
        constants.HF_HUB_OFFLINE = offline
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _unreachable(address: str) -> str:
    """The reason why `address` does not answer within seconds; empty where it does."""
    found: list[str] = []

    def ask() -> None:
        from huggingface_hub.utils import get_session

        try:
            # Through the client's own session: proxies and certificates are the user's.
            get_session().head(address, timeout=_PROBE_SECONDS)
            found.append("")
        except Exception as error:  # of the HTTP library, which changed between its versions
            found.append(one_line(error))

    # A thread, since a name server that does not answer has no timeout of ours.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS)
    return found[0] if found else f"no answer in {_PROBE_SECONDS:g} s"
