"""Process groups and compilers, which may hang or take minutes: after everything else."""

import pytest
import torch
from losses_reference import draw, head_with
from test_cuda_step import make_batch, make_step, weights
from world_of_one import world_of_one

from lookalike.distributed.world import World
from lookalike.losses import create_loss
from lookalike.losses.head_update import UpdateRule


def test_sharded_over_the_collectives_equals_dense(group_device):
    device = group_device
    embeddings, weight, classes = draw(37, 64, 1100, torch.float32)
    margin = create_loss("arcface")
    rule = UpdateRule("sgd", momentum=0.9)
    results = []
    with world_of_one(device) as world:
        for more in ({}, {"sharded": True, "world": world}, {"world": world}):
            head = head_with(margin, weight, chunk=400, update=rule, **more).to(device)
            head.update.lr = 0.1
            leaf = embeddings.to(device).requires_grad_()
            head.begin()
            loss = head(leaf, classes.to(device))
            loss.backward()
            head.end()
            nearest = head.predict(embeddings.to(device))
            results.append([loss, leaf.grad, head.weight, nearest])
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            assert torch.allclose(a, b, rtol=1e-5, atol=1e-7)


def test_the_collectives_of_the_program(group_device):
    device = group_device
    with world_of_one(device) as world:
        ones = torch.arange(6.0, device=device).view(3, 2)
        assert torch.equal(world.sum(ones.clone()), ones)
        assert torch.equal(world.max(ones.clone()), ones)
        assert torch.equal(world.broadcast(ones.clone()), ones)
        for dtype in (torch.float32, torch.float64, torch.int64, torch.uint8, torch.bfloat16):
            [part] = world.gather(ones.to(dtype))
            assert torch.equal(part, ones.to(dtype))
        assert world.all_gather_object({"name": "a", "size": 3}) == [{"name": "a", "size": 3}]
        with world.raise_together():
            world.barrier()


def test_a_step_with_ddp_and_shared_norms(group_device):
    device = group_device
    alone = make_step(World(device=device))
    true = alone(make_batch(), 0)
    with world_of_one(device) as world:
        step = make_step(world)
        outcome = step(make_batch(), 0)
        mine = weights(step)
        del step
    for name, value in true.losses.items():
        assert outcome.losses[name] == pytest.approx(value, rel=1e-3)
    for name, value in weights(alone).items():
        assert torch.allclose(mine[name], value, rtol=1e-2, atol=1e-3), name


def test_compiled_backbone(real_device):
    step = make_step(World(device=real_device), torch.bfloat16)
    true = step(make_batch(), 0).losses["loss"]
    step = make_step(World(device=real_device), torch.bfloat16)
    step.network.embedder.backbone.compile_features()
    assert step(make_batch(), 0).losses["loss"] == pytest.approx(true, rel=5e-2)
