"""Two workers that share the network out (FSDP2) against two, or one, that hold all of it."""

import json
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.multiprocessing as mp
from engine_process import curve, records
from torch import nn

from lookalike import train
from lookalike.config.config import Config
from lookalike.errors import ConfigError
from lookalike.model.embedder import Embedder
from lookalike.training.checkpoint import NETWORK_FILE, OPTIMIZER_FILE
from lookalike.training.network_shards import blocks_of

STEPS, SAVED = 6, 4

# A vision transformer with most of what reads the weights: an average, clipped gradients, rates by
# layer, micro-batches whose activations are computed again, a backbone that is frozen at first, a
# sharded head beside a whole one.
VIT = {
    "model__backbone": "test_vit", "model__gradient_checkpointing": True, "optim__name": "adamw",
    "optim__lr": 1e-3, "optim__layer_decay": 0.8, "optim__clip_grad_norm": 0.5,
    "train__accumulate": 2, "train__ema": 0.9, "train__freeze_backbone_epochs": 1,
    "train__interpolate": True, "head__parallel": "model",
}  # fmt: skip
# Batch norms that are not synchronised, sgd, a whole head and the classification branch's.
CONV = {
    "model__backbone": "test_efficientnet", "train__sync_batchnorm": False, "max_steps": 3,
    "train__eval_every": 0,
}  # fmt: skip


def request(shapes: Path, output: Path, **settings: object) -> dict[str, object]:
    return {
        "train": shapes / "train.txt", "val": shapes / "val.txt", "output": output,
        "device": "cpu", "model__pretrained": False, "image_size": 32, "embedding_dim": 16,
        "batch_size": 16, "max_steps": STEPS, "epochs": 2, "train__checkpoint_every_steps": SAVED,
        "train__keep_checkpoints": 9, "train__recipe": "component", "train__report": False,
        "train__log_every": 1, "data__threads": 1, **settings,
    }  # fmt: skip


def work(rank: int, port: int, requests: list[tuple[Path | None, dict]]) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    for begun, one in requests:
        if begun is not None and rank == 0:  # the other worker waits for this one
            as_stopped(begun, one["output"])
        train(**one, resume=begun is not None)


def in_two_workers(*requests: tuple[Path | None, dict]) -> None:
    """Train on these requests one after the other, or resume copies of other runs with them.

    In the same processes, which must begin anew each time.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, (port, list(requests)), nprocs=2)


def as_stopped(run: Path, copy: Path) -> None:
    """Copy a run as if it had ended after the checkpoint before its last one."""
    shutil.copytree(run, copy)
    shutil.rmtree(copy / f"checkpoints/step-{STEPS:08d}")


def assert_close(mine: list[dict], other: list[dict]) -> None:
    assert [record.keys() for record in mine] == [record.keys() for record in other]
    for one, two in zip(mine, other, strict=True):
        for key in one.keys() - {"images_per_second", "waiting", "seconds"}:
            if one[key] is None or isinstance(one[key], str | bool):
                assert one[key] == two[key], key
            else:
                np.testing.assert_allclose(one[key], two[key], rtol=1e-3, atol=1e-5, err_msg=key)


def tensors(run: Path, name: str) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run / name)


@pytest.mark.slow
def test_shared_network_trains_saves_and_resumes_as_a_whole_one(shapes, tmp_path):
    names = ("whole", "shared", "resumed", "alone", "conv", "conv-shared")
    whole, shared, resumed, alone, conv, conv_shared = (tmp_path / name for name in names)
    in_two_workers(
        (None, request(shapes, whole, **VIT)),
        (None, request(shapes, shared, **VIT, train__shard_backbone=True)),
        (shared, request(shapes, resumed, **VIT, train__shard_backbone=True)),
        (None, request(shapes, conv, **CONV)),
        (None, request(shapes, conv_shared, **CONV, train__shard_backbone=True)),
    )
    for one, two, saved in ((shared, whole, STEPS), (conv_shared, conv, CONV["max_steps"])):
        assert_close(records(one), records(two))
        for name in ("model/model.safetensors", f"checkpoints/step-{saved:08d}/{NETWORK_FILE}"):
            torch.testing.assert_close(tensors(one, name), tensors(two, name), rtol=1e-3, atol=1e-5)
    state = f"checkpoints/step-{STEPS:08d}/{OPTIMIZER_FILE}"
    assert tensors(shared, state).keys() == tensors(whole, state).keys()

    # Resumed by as many workers: the same to the bit. By one, which shares with none: up to
    # rounding.
    assert curve(resumed) == curve(shared)
    one, two = (tensors(run, "model/model.safetensors") for run in (resumed, shared))
    assert all(torch.equal(one[name], two[name]) for name in two)
    as_stopped(shared, alone)
    train(**request(shapes, alone, **VIT, train__shard_backbone=True), resume=True)
    assert_close(records(alone), records(shared))


def small_swin(folder: Path) -> str:
    """A Swin of two stages, without what differs between workers (stochastic depth)."""
    size = {"patch_size": 4, "window_size": 4, "embed_dim": 16, "depths": [1, 2]}
    args = {**size, "num_heads": [2, 2], "drop_path_rate": 0.0}
    described = {
        "architecture": "swin_s3_tiny_224",
        "model_args": args,
        "pretrained_cfg": {"num_classes": 0},
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(described))
    return f"local-dir:{folder}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_two_workers_that_share_it_give_the_curve_of_one(kind, shapes, tmp_path):
    backbone = small_swin(tmp_path / "swin") if kind == "swin" else "test_vit"
    settings = {
        "model__backbone": backbone, "head__parallel": "model", "loss__classification_weight": 0.0,
        "optim__name": "adamw", "optim__lr": 1e-3,
    }  # fmt: skip
    shared, resumed, alone = (tmp_path / name for name in ("shared", "resumed", "alone"))
    sharded = settings | {"train__shard_backbone": True}
    in_two_workers(
        (None, request(shapes, shared, **sharded)), (shared, request(shapes, resumed, **sharded))
    )
    train(**request(shapes, alone, **settings))
    assert_close(records(shared), records(alone))
    one, two = (tensors(run, "model/model.safetensors") for run in (shared, alone))
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)
    assert curve(resumed) == curve(shared)


def test_blocks_are_those_of_the_architecture():
    for name, count in (("test_vit", 6), ("test_convnext", 9), ("test_resnet", 4)):
        model = Embedder.create(name, pretrained=False, image_size=32).backbone.model
        blocks = blocks_of(model)
        assert len(blocks) == count, name
        held = [id(value) for block in blocks for value in block.parameters()]
        assert len(held) == len(set(held))
        assert sum(value.numel() for value in model.parameters()) > sum(
            value.numel() for block in blocks for value in block.parameters()
        )
    assert blocks_of(nn.Linear(2, 2)) == []


@pytest.mark.parametrize(
    "setting",
    [
        {"freeze_backbone": True},
        {"cache_features": True, "freeze_backbone_epochs": 1},
        {"compile": True},
    ],
)
def test_settings_that_do_not_go_together(setting, shapes, tmp_path):
    config = Config().with_settings(
        {"train__shard_backbone": True, **{f"train__{key}": v for key, v in setting.items()}}
    )
    with pytest.raises(ConfigError, match=r"train\.shard_backbone=true does not go with train\."):
        train(config, train=shapes / "train.txt", output=tmp_path / "run")
