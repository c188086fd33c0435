"""Pair and proxy losses on two workers against one: losses, gradients, memory, predictions."""

import os
from dataclasses import dataclass

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from lookalike.distributed.world import World
from lookalike.losses import PAIR_LOSSES, create_loss
from lookalike.losses.pairs.batch_comparison import BatchComparison
from lookalike.losses.pairs.proxy_weights import ProxyWeights

DIM, CLASSES, STEPS = 5, 4, 2


@dataclass(frozen=True)
class Case:
    """Worker r has counts[r] rows of the same global batch in each step."""

    name: str
    counts: tuple[int, int] = (7, 4)
    sharded: bool = False
    num_classes: int = CLASSES
    chunk: int | None = None
    memory: int = 0
    block: int = 2**22
    weighted: bool = False
    labels: int = 1

    def data(self, step):
        generator = torch.Generator().manual_seed(len(self.name) + 10 * step)
        images = torch.randn(sum(self.counts), 6, generator=generator, dtype=torch.float64)
        classes = torch.randint(
            min(CLASSES, self.num_classes), (sum(self.counts),), generator=generator
        )
        if self.labels > 1:  # some have a second class
            second = (classes + 1) % CLASSES
            classes = torch.stack([classes, second.where(classes < 2, -1)], 1)
        return images, classes

    def weights(self, rows):
        return torch.linspace(0, 3, sum(self.counts))[rows] if self.weighted else None

    def module(self, world):
        loss = create_loss(self.name)
        if self.name == "proxy_anchor":
            return ProxyWeights(
                DIM, self.num_classes, loss, chunk=self.chunk, sharded=self.sharded,
                world=world, seed=3, init_std=0.7,
            ).double()  # fmt: skip
        return BatchComparison(
            DIM, loss, memory=self.memory, labels=self.labels, world=world, block=self.block
        ).double()


CASES = [
    *[Case("proxy_anchor", sharded=sharded, num_classes=count, chunk=chunk)
      for sharded in (False, True) for count, chunk in ((7, 2), (7, None), (1, None))],
    *[Case(name) for name in PAIR_LOSSES],
    *[Case(name, counts=(1, 6)) for name in PAIR_LOSSES],
    *[Case(name, memory=15) for name in PAIR_LOSSES],
    *[Case(name, memory=4, block=20) for name in PAIR_LOSSES],
    Case("supcon", weighted=True),
    *[Case("proxy_anchor", sharded=sharded, chunk=2, labels=2) for sharded in (False, True)],
    Case("supcon", memory=15, labels=2),
    Case("smooth_ap", memory=4, block=20, labels=2),
    Case("multi_similarity", memory=4, block=20, weighted=True),
]  # fmt: skip


def run(case, world, wrap):
    """Two steps; memory is that of the first in the second."""
    linear = torch.nn.Linear(6, DIM, bias=False).double()
    with torch.no_grad():
        linear.weight.copy_(torch.linspace(-1, 1, 6 * DIM, dtype=torch.float64).sin().view(DIM, 6))
    backbone = DistributedDataParallel(linear) if wrap else linear
    module, found = case.module(world), []
    for step in range(STEPS):
        images, classes = case.data(step)
        begin = sum(case.counts[: world.rank]) if wrap else 0
        end = begin + case.counts[world.rank] if wrap else len(images)
        linear.zero_grad()
        module.zero_grad()
        embeddings = backbone(images[begin:end])
        extra = [case.weights(slice(begin, end))] if case.weighted else []
        loss = module(embeddings, classes[begin:end], *extra)
        loss.backward()
        result = {"loss": loss.detach(), "by_backbone": linear.weight.grad.clone()}
        if isinstance(module, ProxyWeights):
            module.average_gradients()
            result["by_weight"] = module.weight.grad.clone()
            result["predicted"] = module.predict(embeddings.detach())
        else:
            module.end()
            if module.memory is not None:
                result |= {f"memory {k}": v.clone() for k, v in module.memory.state_dict().items()}
        found.append(result)
    return found


def worker(rank, folder):
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    world = World(rank=rank, size=2, local_size=2)
    torch.save([run(case, world, True) for case in CASES], os.path.join(folder, f"{rank}.pt"))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    mp.spawn(worker, (str(folder),), nprocs=2)
    return list(zip(*(torch.load(folder / f"{rank}.pt") for rank in range(2)), strict=True))


def test_two_workers_give_the_losses_and_gradients_of_one(together):
    for case, parts in zip(CASES, together, strict=True):
        alone = run(case, World(), False)
        for step in range(STEPS):
            expected, found = alone[step], [part[step] for part in parts]
            assert expected["by_backbone"].abs().max() > 1e-3, case  # else nothing is compared
            for each in found:  # both workers have the whole loss
                for key in each.keys() - {"by_weight", "predicted"}:
                    torch.testing.assert_close(
                        each[key], expected[key], rtol=1e-9, atol=1e-11,
                        msg=lambda text, case=case, key=key: f"{case} {key}: {text}",
                    )  # fmt: skip
            if "by_weight" in expected:
                weights = [each["by_weight"] for each in found]
                weights = [torch.cat(weights)] if case.sharded else weights
                for weight in weights:
                    torch.testing.assert_close(weight, expected["by_weight"])
                predicted = torch.cat([each["predicted"] for each in found])
                assert torch.equal(predicted, expected["predicted"])
