"""Several workers against one: losses, gradients and predictions, dense and sharded."""

import itertools
import os
from dataclasses import dataclass

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from losses_reference import PLAIN, loss_and_gradients
from torch.nn.parallel import DistributedDataParallel

from lookalike.distributed.world import World
from lookalike.losses import create_loss
from lookalike.losses.class_weights import HeadOptions
from lookalike.losses.head import Head

DIM = 6


@dataclass(frozen=True)
class Case:
    """One step: every worker has counts[rank] rows of the same global batch."""

    name: str
    sharded: bool
    num_classes: int
    counts: tuple[int, ...]
    smoothing: float
    weighted: bool = False
    labels: int = 1

    def data(self):
        generator = torch.Generator().manual_seed(hash((self.num_classes, self.counts)) % 1000)
        images = torch.randn(sum(self.counts), 4, generator=generator, dtype=torch.float64)
        backbone = torch.randn(DIM, 4, generator=generator, dtype=torch.float64)
        # The last class has no row.
        present = max(1, self.num_classes - 1)
        classes = torch.randint(present, (sum(self.counts),), generator=generator)
        if self.labels > 1:  # some have a second class
            second = (classes + 2) % present
            classes = torch.stack([classes, second.where(classes < 4, -1)], 1)
        return images, backbone, classes

    def row_weights(self):
        generator = torch.Generator().manual_seed(self.num_classes)
        weights = 3 * torch.rand(sum(self.counts), generator=generator, dtype=torch.float64)
        weights[0] = 0
        return weights if self.weighted else None

    def head(self, world):
        head = Head(
            DIM,
            self.num_classes,
            create_loss(self.name),
            HeadOptions(chunk=2),
            label_smoothing=self.smoothing,
            sharded=self.sharded,
            world=world,
            seed=5,
            init_std=0.7,
        )
        return head.double()


def cases(size):
    found = [
        Case(name, sharded, 7, (5, 2, 4)[:size], smoothing)
        for name, sharded, smoothing in itertools.product(PLAIN, (False, True), (0.0, 0.1))
    ]
    found += [
        Case(name, sharded, 7, (5, 2, 4)[:size], 0.1, weighted=True)
        for name, sharded in itertools.product(("arcface", "softmax"), (False, True))
    ]
    found += [
        Case(name, sharded, 7, (5, 2, 4)[:size], 0.1, weighted=True, labels=2)
        for name, sharded in itertools.product(PLAIN, (False, True))
    ]
    # Equal batches; one row; more workers than classes; one class.
    for sharded, smoothing in itertools.product((False, True), (0.0, 0.1)):
        found += [
            Case("arcface", sharded, 8, (3, 3, 3)[:size], smoothing),
            Case("softmax", sharded, 5, (1, 1, 6)[:size], smoothing),
            Case("cosface", sharded, 2, (2, 3, 1)[:size], smoothing),
            Case("sphereface", sharded, 1, (2, 1, 2)[:size], smoothing),
        ]
    return found


def worker(rank, size, folder):
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    world = World(rank=rank, size=size, local_size=size)
    results = []
    for case in cases(size):
        images, backbone, classes = case.data()
        own = slice(sum(case.counts[:rank]), sum(case.counts[: rank + 1]))
        linear = torch.nn.Linear(4, DIM, bias=False).double()
        linear.weight.data.copy_(backbone)
        linear = DistributedDataParallel(linear)
        head = case.head(world)
        embeddings = linear(images[own])
        embeddings.retain_grad()
        weights = case.row_weights()
        loss = head(embeddings, classes[own], None if weights is None else weights[own])
        loss.backward()
        head.average_gradients()
        results.append(
            {
                "loss": loss.detach(),
                "by_embedding": embeddings.grad,
                "by_backbone": linear.module.weight.grad,
                "by_weight": head.weight.grad,
                "predicted": head.predict(embeddings.detach()),
            }
        )
    torch.save(results, os.path.join(folder, f"{rank}.pt"))
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[pytest.param(2, marks=pytest.mark.slow), 3])
def workers(request, tmp_path_factory):
    """The results of every case, by case: a list with one entry for each worker."""
    size = request.param
    folder = tmp_path_factory.mktemp(f"workers{size}")
    mp.spawn(worker, (size, str(folder)), nprocs=size)
    results = [torch.load(folder / f"{rank}.pt") for rank in range(size)]
    return dict(zip(cases(size), zip(*results, strict=True), strict=True))


def one_worker(case):
    """The plain formula on the whole batch."""
    images, backbone, classes = case.data()
    embeddings = images @ backbone.t()
    weight = Case.head(case, World()).weight
    of_rows = case.row_weights() if case.weighted else 1.0
    loss, by_embedding, by_weight = loss_and_gradients(
        create_loss(case.name), embeddings, weight, classes, case.smoothing, of_rows
    )
    cos = torch.cosine_similarity(embeddings[:, None], weight[None], dim=2)
    return {
        "loss": loss,
        "by_embedding": by_embedding,
        "by_backbone": by_embedding.t() @ images,
        "by_weight": by_weight,
        "predicted": cos.argmax(1),
    }


def assert_close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_mean_loss_over_the_workers_is_the_loss_of_one(workers):
    for case, parts in workers.items():
        losses = torch.stack([part["loss"] for part in parts])
        assert_close(losses.mean(), one_worker(case)["loss"])
        if case.sharded:
            assert (losses == losses[0]).all()


def test_backbone_gradient_under_ddp_is_that_of_one(workers):
    for case, parts in workers.items():
        for part in parts:
            assert_close(part["by_backbone"], one_worker(case)["by_backbone"])


def test_embedding_gradients_carry_the_number_of_workers(workers):
    for case, parts in workers.items():
        gathered = torch.cat([part["by_embedding"] for part in parts]) / len(parts)
        assert_close(gathered, one_worker(case)["by_embedding"])


def test_weight_gradient_is_that_of_one(workers):
    for case, parts in workers.items():
        expected = one_worker(case)["by_weight"]
        if case.sharded:
            assert_close(torch.cat([part["by_weight"] for part in parts]), expected)
        else:
            for part in parts:
                assert_close(part["by_weight"], expected)


def test_predictions_are_those_of_one(workers):
    for case, parts in workers.items():
        predicted = torch.cat([part["predicted"] for part in parts])
        assert torch.equal(predicted, one_worker(case)["predicted"])


def test_the_cases_cover_an_empty_share_and_an_absent_class(workers):
    sizes = {len(parts) for parts in workers.values()}
    (size,) = sizes
    assert any(case.num_classes < size for case in workers) or size == 1
    for case in workers:
        if case.num_classes > 1:
            assert case.num_classes - 1 not in case.data()[2]


@pytest.mark.parametrize("name", PLAIN)
def test_sharded_over_one_worker_is_the_dense_head(name):
    dense = Case(name, False, 7, (9,), 0.1)
    sharded = Case(name, True, 7, (9,), 0.1)
    images, backbone, classes = dense.data()
    results = []
    for case in (dense, sharded):
        head = case.head(World())
        embeddings = (images @ backbone.t()).requires_grad_()
        loss = head(embeddings, classes)
        loss.backward()
        head.average_gradients()
        results.append((loss.detach(), embeddings.grad, head.weight.grad))
    for one, other in zip(*results, strict=True):
        assert_close(one, other)
