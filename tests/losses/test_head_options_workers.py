"""Every option of the head on 2 and 3 gloo workers, against one worker or the plain formula."""

import itertools
import os
from dataclasses import dataclass

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from losses_reference import loss_and_gradients

from lookalike.distributed.world import World
from lookalike.losses import create_loss
from lookalike.losses.class_weights import HeadOptions
from lookalike.losses.head import Head
from lookalike.losses.head_update import UpdateRule

DIM, CLASSES, STEPS = 6, 23, 4
OPTIONS = {
    "sgd": HeadOptions(chunk=3, update=UpdateRule("sgd", 0.9, 0.01)),
    "adamw": HeadOptions(chunk=3, update=UpdateRule("adamw", 0.9, 0.01)),
    "centres": HeadOptions(chunk=2, centres=3, update=UpdateRule("sgd", 0.9, 0.01)),
    "filter": HeadOptions(filter_above=0.3, update=UpdateRule("sgd", 0.9, 0.01)),
    "sampled": HeadOptions(chunk=3, sample_rate=0.3, update=UpdateRule("sgd", 0.9, 0.01)),
}


@dataclass(frozen=True)
class Case:
    name: str
    options: str
    sharded: bool


CASES = [
    *[Case("arcface", name, sharded) for name, sharded in itertools.product(OPTIONS, (0, 1))],
    *[
        Case(name, options, sharded)
        for name, options, sharded in itertools.product(
            ("adaface", "curricularface", "magface", "adaptive_arcface"), ("sgd",), (0, 1)
        )
    ],
    Case("curricularface", "sampled", True),
]


def head_of(case, world):
    return Head(
        DIM, CLASSES, create_loss(case.name), OPTIONS[case.options], sharded=bool(case.sharded),
        world=world, seed=5, init_std=0.7, class_counts=torch.arange(1, CLASSES + 1),
    ).double()  # fmt: skip


def batches(size):
    generator = torch.Generator().manual_seed(11)
    counts = (3, 1, 4)[:size]
    for _ in range(STEPS):
        rows = sum(counts)
        embeddings = 8 * torch.randn(rows, DIM, generator=generator, dtype=torch.float64)
        classes = torch.randint(CLASSES, (rows,), generator=generator)
        yield embeddings, classes, counts


def run(case, world, size):
    head = head_of(case, world)
    losses, gradients = [], []
    for embeddings, classes, counts in batches(size):
        own = slice(None)
        if world.size > 1:
            own = slice(sum(counts[: world.rank]), sum(counts[: world.rank + 1]))
        leaf = embeddings[own].clone().requires_grad_()
        head.update.lr = 0.1
        head.begin()
        loss = head(leaf, classes[own])
        loss.backward()
        head.end()
        losses.append(loss.detach())
        gradients.append(leaf.grad)
    index = torch.arange(len(head.weight))
    weight = head.update.current_rows(head.weight, index)[0] if head.update.lazy else head.weight
    return {
        "losses": torch.stack(losses),
        "gradients": gradients,
        "weight": weight.detach(),
        "rows": [head.rows.start, head.rows.stop],
        "state": head.margin_state,
        "predicted": head.predict(embeddings[own]),
    }


def worker(rank, size, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/s", rank=rank, world_size=size)
    world = World(rank=rank, size=size, local_size=size)
    torch.save([run(case, world, size) for case in CASES], os.path.join(folder, f"{rank}.pt"))
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[pytest.param(2, marks=pytest.mark.slow), 3])
def workers(request, tmp_path_factory):
    size = request.param
    folder = tmp_path_factory.mktemp(f"options{size}")
    mp.spawn(worker, (size, str(folder)), nprocs=size)
    results = [torch.load(folder / f"{rank}.pt") for rank in range(size)]
    return dict(zip(CASES, zip(*results, strict=True), strict=True))


def assert_close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)


def test_several_workers_train_as_one(workers):
    checked = 0
    for case, parts in workers.items():
        if case.options == "sampled" and case.sharded:
            continue  # each share draws its own sample: see below
        size = len(parts)
        one = run(case, World(), size)
        assert_close(torch.stack([part["losses"] for part in parts]).mean(0), one["losses"])
        for step in range(STEPS):
            gradients = torch.cat([part["gradients"][step] for part in parts]) / size
            assert_close(gradients, one["gradients"][step])
        if case.sharded:
            assert_close(torch.cat([part["weight"] for part in parts]), one["weight"])
        for part in parts:
            if not case.sharded:
                assert_close(part["weight"], one["weight"])
            assert_close(part["state"], one["state"])
        assert torch.equal(torch.cat([part["predicted"] for part in parts]), one["predicted"])
        checked += 1
    assert checked == len(CASES) - 2


def test_sharded_samples_are_the_formula_on_the_classes_that_were_drawn(workers):
    (case,) = [c for c in workers if c.options == "sampled" and c.sharded and c.name == "arcface"]
    parts = workers[case]
    size = len(parts)
    heads = [head_of(case, World(rank=rank, size=size)) for rank in range(size)]
    weight = torch.cat([head.weight.detach() for head in heads]).requires_grad_()
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=0.01)
    for step, (embeddings, classes, _) in enumerate(batches(size)):
        index = torch.cat(
            [head.sampler.draw(classes - head.rows.start, step) + head.rows.start for head in heads]
        )
        assert len(index) < CLASSES
        place = torch.searchsorted(index, classes)
        loss, by_embedding, by_rows = loss_and_gradients(
            heads[0].margin, embeddings, weight.detach()[index], place
        )
        for part in parts:
            assert_close(part["losses"][step], loss)
        assert_close(torch.cat([part["gradients"][step] for part in parts]) / size, by_embedding)
        weight.grad = torch.zeros_like(weight).index_copy_(0, index, by_rows)
        optimizer.step()
    assert_close(torch.cat([part["weight"] for part in parts]), weight.detach())
