"""Class chunks: the number of products, the logit cache, and denormal numbers."""

import pytest
import torch
from losses_reference import draw, head_loss_and_gradients, head_with
from torch.utils._python_dispatch import TorchDispatchMode

from lookalike.config.config import Config
from lookalike.distributed.world import World
from lookalike.losses import chunk_products, chunk_softmax, create_loss
from lookalike.losses.chunk_products import ChunkOptions, Chunks, LogitCache
from lookalike.losses.class_weights import HeadOptions
from lookalike.losses.head import Head
from lookalike.losses.head_update import UpdateRule
from lookalike.training.resolve import resolve_head


class Products(TorchDispatchMode):
    """Counts the products of matrices, and those of them with another one added."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm_):
            self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("update", [None, UpdateRule("sgd"), UpdateRule("adamw")])
@pytest.mark.parametrize(
    ("cache", "options", "products"),
    [(0.0, {}, 4), (10.0, {}, 3), (0.0, {"sample_rate": 0.999, "update": UpdateRule("sgd")}, 4)],
)
def test_a_step_makes_four_products_of_each_chunk(monkeypatch, cache, options, products, update):
    # 8 operations for each number of the weight and each row; 6 where the logits are cached.
    monkeypatch.setattr(chunk_products, "CPU_LOGIT_CACHE", cache)
    embeddings, weight, classes = draw(9, 16, 600, torch.float32)
    head = head_with(create_loss("arcface"), weight, **{"chunk": 20, "update": update, **options})
    if head.update is not None:
        head.update.lr = 0.1
    with Products() as made:
        head.begin()
        head(embeddings.requires_grad_(), classes).backward()
        head.end()
    assert not torch.equal(head.weight, weight) or head.weight.grad is not None
    assert made.count == products * 30


def test_frozen_classes_take_one_pass():
    embeddings, weight, classes = draw(9, 16, 600, torch.float32)
    head = head_with(create_loss("arcface"), weight, chunk=20)
    head.weight.requires_grad_(False)
    with Products() as made:
        head(embeddings.requires_grad_(), classes).backward()
    assert made.count == 2 * 30


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
@pytest.mark.parametrize("centres", [1, 3])
def test_cached_logits_are_those_that_would_be_computed_again(monkeypatch, centres, precision):
    embeddings, weight, classes = draw(9, 16, 600, torch.float32)
    classes %= 600 // centres
    counts, results = [], []

    for cache in (0.0, 0.05, 10.0):
        monkeypatch.setattr(chunk_products, "CPU_LOGIT_CACHE", cache)
        head = head_with(
            create_loss("arcface"), weight, centres=centres, chunk=20, precision=precision
        )
        head_loss_and_gradients(head, embeddings, classes)  # the memory is used again
        with Products() as products:
            results.append(head_loss_and_gradients(head, embeddings, classes))
        counts.append(products.count)
    chunks = 600 // centres // 20
    assert counts[0] - counts[2] == chunks
    assert counts[0] > counts[1] > counts[2]
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


def test_two_forward_passes_before_a_backward_pass_do_not_share_logits(monkeypatch):
    monkeypatch.setattr(chunk_products, "CPU_LOGIT_CACHE", 10.0)
    embeddings, weight, classes = draw(9, 16, 600)
    head = head_with(create_loss("arcface"), weight, chunk=20)
    one, two = (e.clone().requires_grad_() for e in (embeddings, embeddings.flip(0)))
    losses = head(one, classes), head(two, classes)
    losses[0].backward()
    losses[1].backward()
    for leaf in (one, two):
        _, expected, _ = head_loss_and_gradients(head, leaf, classes)
        torch.testing.assert_close(leaf.grad, expected)


@pytest.mark.parametrize(
    ("device", "needed", "kept"), [("cpu", True, 400), ("cpu", False, 0), ("meta", True, 0)]
)
def test_whole_chunks_of_3_5_percent_of_weight_and_momentum_are_cached_on_a_cpu(
    device, needed, kept
):
    weight, rows = torch.zeros(1000, 64, device=device), torch.zeros(10, 64, device=device)
    classes = torch.zeros(10, dtype=torch.int64, device=device)
    options = ChunkOptions(normalize=True, chunk=50)
    cache = LogitCache(Chunks(rows, weight, classes, options, None, None, {}), needed)
    assert cache.classes == kept  # 0.035 x 2 x 1000 x 64 / 10 = 448
    assert (cache.take(slice(350, 400)) is not None) == (kept == 400)
    assert cache.take(slice(400, 450)) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_denormal_number_comes_out_of_a_softmax_of_unlike_logits(dtype):
    z = -1000 * torch.rand(4, 500, dtype=dtype)
    column = torch.zeros(4, dtype=torch.int64)
    sums = chunk_softmax.RowSums.empty(z, False)
    logits = z.clone()
    chunk_softmax.add_chunk(sums, logits, column, None)
    others = z[:, 1:].double()
    torch.testing.assert_close(sums.lse().double(), others.logsumexp(1), rtol=1e-6, atol=1e-6)
    d_lse = torch.full((4,), 1e-15, dtype=dtype)
    got = chunk_softmax.logit_gradient(
        z, sums.lse(), d_lse, None, torch.zeros_like(d_lse), column, None, torch.empty_like(z)
    )
    tiny = torch.finfo(dtype).tiny
    for numbers in (logits, got):
        assert ((numbers == 0) | (numbers.abs() >= tiny)).all()
    expected = 1e-15 * others.softmax(1)
    torch.testing.assert_close(got[:, 1:].double(), expected, rtol=1e-5, atol=1e-32)
    assert (got[:, 0] == 0).all()


@pytest.mark.parametrize(
    ("device", "amx", "wanted", "resolved"),
    [
        ("cpu", False, "auto", "fp32"),
        ("cpu", True, "auto", "bf16"),
        ("cuda", False, "auto", "bf16"),
        ("cpu", False, "bf16", "bf16"),
        ("cuda", True, "fp32", "fp32"),
    ],
)
def test_bf16_products_where_they_are_faster_or_asked_for(
    monkeypatch, device, amx, wanted, resolved
):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    config = Config().with_values({"head.precision": wanted})
    found = resolve_head(
        config, create_loss("arcface"), "bf16", torch.device(device), classes=8, classification=0
    )
    assert found["head.precision"] == resolved


def test_workers_with_other_numbers_of_rows_average_the_same_chunks(monkeypatch):
    # On a GPU the usual size of a chunk depends on the rows; each chunk is a collective.
    monkeypatch.setattr(chunk_products, "default_chunk", lambda rows, weight: 7 * rows)

    class Recording(World):
        def sum(self, tensor):
            if tensor.ndim == 2:
                chunks.append(len(tensor))
            return tensor

    made = []
    for rows in (8, 9):
        chunks: list[int] = []
        embeddings, _, classes = draw(rows, 16, 10_000, torch.float32)
        world = Recording(size=2)
        head = Head(
            16, 10_000, create_loss("arcface"), HeadOptions(update=UpdateRule()), world=world
        )
        head.begin()
        head(embeddings.requires_grad_(), classes).backward()
        head.end()
        made.append(chunks)
    assert made[0] == made[1]
    assert sum(made[0]) == 10_000
