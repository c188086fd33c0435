"""Pair and proxy losses: values and gradients against pytorch-metric-learning and plain loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning import losses as theirs
from pytorch_metric_learning.miners import MultiSimilarityMiner
from pytorch_metric_learning.utils import loss_and_miner_utils as pml

from lookalike.errors import ConfigError
from lookalike.losses import LOSSES, MARGINS, PAIR_LOSSES, create_loss
from lookalike.losses.pairs.batch_comparison import BatchComparison
from lookalike.losses.pairs.proxy_weights import ProxyWeights

DIM = 6


def batch(seed, sizes=(4, 4, 4, 4)):
    """Embeddings of classes of these sizes, of lengths other than 1, in which classes overlap."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    centres = torch.randn(len(sizes), DIM, generator=generator, dtype=torch.float64)
    noise = torch.randn(len(classes), DIM, generator=generator, dtype=torch.float64)
    return (centres[classes] + 0.7 * noise).requires_grad_(), classes


def shuffled(seed, sizes):
    embeddings, classes = batch(seed, sizes)
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed))
    return embeddings.detach()[order].requires_grad_(), classes[order]


def assert_equal(ours, embeddings, reference):
    """The same loss, and the same gradient of the embeddings."""
    torch.testing.assert_close(ours, reference, rtol=1e-8, atol=1e-10)
    found = [torch.autograd.grad(loss, embeddings)[0] for loss in (ours, reference)]
    assert found[1].abs().max() > 1e-4  # else nothing is compared
    torch.testing.assert_close(*found, rtol=1e-7, atol=1e-10)


def compare(name, embeddings, classes, block=2**22, **options):
    loss = create_loss(name, options=options)
    return BatchComparison(embeddings.shape[1], loss, block=block)(embeddings, classes)


@pytest.mark.parametrize("block", [1, 50, 2**22])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("epsilon", [0.1, 0.4, 2])
def test_multi_similarity_is_theirs(seed, epsilon, block):
    embeddings, classes = shuffled(seed, (4, 1, 3, 6, 2))
    # Without mining too: then an image without a positive has its negatives all the same.
    pairs = None if epsilon == 2 else MultiSimilarityMiner(epsilon)(embeddings, classes)
    reference = theirs.MultiSimilarityLoss(alpha=2, beta=50, base=0.5)(embeddings, classes, pairs)
    found = compare("multi_similarity", embeddings, classes, block, epsilon=epsilon)
    assert_equal(found, embeddings, reference)


@pytest.mark.parametrize("block", [1, 50, 2**22])
@pytest.mark.parametrize("seed", range(3))
def test_supcon_is_theirs(seed, block):
    embeddings, classes = shuffled(seed, (4, 1, 3, 6, 2))
    reference = theirs.SupConLoss(temperature=0.1)(embeddings, classes)
    assert_equal(compare("supcon", embeddings, classes, block), embeddings, reference)


@pytest.fixture
def default_float64():
    """Theirs has a buffer of the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("block", [1, 200, 2**22])
@pytest.mark.parametrize("temperature", [0.01, 0.1])
@pytest.mark.parametrize("seed", range(3))
def test_smooth_ap_is_theirs(seed, temperature, block, default_float64):
    embeddings, classes = batch(seed)  # theirs takes classes of one size, one after the other
    reference = theirs.SmoothAPLoss(temperature=temperature)(embeddings, classes)
    found = compare("smooth_ap", embeddings, classes, block, temperature=temperature)
    assert_equal(found, embeddings, reference)


def cosines(embeddings, memory):
    unit = F.normalize(embeddings, dim=1)
    return unit @ torch.cat([unit, memory]).t()


def smooth_ap_by_loops(cos, classes, labels, temperature):
    losses = []
    for i in range(len(classes)):
        positives = [j for j in range(len(labels)) if labels[j] == classes[i]]
        precisions = []
        for j in positives:
            above = {
                k: torch.sigmoid((cos[i, k] - cos[i, j]) / temperature)
                for k in range(len(labels)) if k != j
            }  # fmt: skip
            among = 1 + sum(above[k] for k in positives if k != j)
            precisions.append(among / (1 + sum(above.values())))
        losses.append(1 - sum(precisions) / len(positives))
    return sum(losses) / len(losses)


def recall_by_loops(cos, classes, labels, temperature, rank_temperature, most):
    losses = []
    for i in range(len(classes)):
        gallery = [j for j in range(len(labels)) if j != i]
        positives = [j for j in gallery if labels[j] == classes[i]]
        if not positives:
            continue
        recalls, k = [], 1
        while k <= most:
            found = 0
            for j in positives:
                others = [m for m in gallery if m != j]
                rank = 1 + sum(torch.sigmoid((cos[i, m] - cos[i, j]) / temperature) for m in others)
                found = found + torch.sigmoid((k - rank) / rank_temperature)
            recalls.append(min(found, torch.tensor(float(k))) / min(k, len(positives)))
            k *= 2
        losses.append(1 - sum(recalls) / len(recalls))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("kept", [0, 7])
@pytest.mark.parametrize("block", [1, 2**22])
@pytest.mark.parametrize("name", ["smooth_ap", "recall_at_k"])
def test_rank_losses_are_those_of_loops(name, block, kept):
    embeddings, classes = shuffled(3, (3, 1, 4, 2))
    options = {"temperature": 0.05}
    if name == "recall_at_k":
        options |= {"rank_temperature": 0.6, "k_max": 4}
    module = BatchComparison(DIM, create_loss(name, options=options), memory=9, block=block)
    module.double()
    rows, labels = shuffled(4, (2, 3, 2))
    memory = F.normalize(rows.detach(), dim=1)[:kept]
    assert module.memory is not None
    module.memory.store(memory, labels[:kept])
    labels = torch.cat([classes, labels[:kept]])
    cos = cosines(embeddings, memory)
    if name == "smooth_ap":
        reference = smooth_ap_by_loops(cos, classes, labels, 0.05)
    else:
        reference = recall_by_loops(cos, classes, labels, 0.05, 0.6, 4)
    assert_equal(module(embeddings, classes), embeddings, reference)


def test_recall_of_a_perfect_and_of_a_reversed_ranking():
    """Far from ties the surrogate is Recall@k itself."""
    classes = torch.tensor([0, 0, 1, 1])
    options = {"temperature": 1e-3, "rank_temperature": 1e-3, "k_max": 1}
    good = torch.tensor([[1.0, 0], [1, 0.3], [0, 1], [0.3, 1]])
    # At k = rank the sigmoid is a half.
    assert compare("recall_at_k", good, classes, **options).item() == pytest.approx(0.5)
    bad = torch.tensor([[1.0, 0], [-1, 0], [1, 0.1], [-1, 0.1]])
    assert compare("recall_at_k", bad, classes, **options).item() == pytest.approx(1)


@pytest.mark.parametrize("kept", [0, 5])
@pytest.mark.parametrize("name", ["multi_similarity", "supcon"])
def test_memory_adds_images_to_compare_with(name, kept):
    """Theirs with references; the memory has no gradient, the batch has that of both its sides."""
    embeddings, classes = shuffled(5, (4, 2, 3))
    rows, labels = shuffled(6, (3, 3, 3))
    memory = F.normalize(rows.detach(), dim=1)[:kept]
    module = BatchComparison(DIM, create_loss(name), memory=8).double()
    assert module.memory is not None
    module.memory.store(memory, labels[:kept])
    gallery = torch.cat([F.normalize(embeddings, dim=1), memory])
    gallery_labels = torch.cat([classes, labels[:kept]])
    if name == "multi_similarity":
        # Their miner takes an image for a positive of itself among references: mined by hand.
        pairs = mined(embeddings.detach(), classes, gallery.detach(), gallery_labels)
    else:
        pairs = pml.get_all_pairs_indices(classes, gallery_labels)
        pairs = pml.remove_self_comparisons(pairs, torch.arange(len(classes)), len(gallery))
    kind = theirs.MultiSimilarityLoss if name == "multi_similarity" else theirs.SupConLoss
    reference = kind()(embeddings, classes, pairs, gallery, gallery_labels)
    assert_equal(module(embeddings, classes), embeddings, reference)


def mined(embeddings, classes, gallery, labels, epsilon=0.1):
    """The paper's conditions, image by image."""
    cos = F.normalize(embeddings, dim=1) @ gallery.t()
    same, other = [], []
    for i in range(len(classes)):
        positives = [j for j in range(len(labels)) if labels[j] == classes[i] and j != i]
        negatives = [j for j in range(len(labels)) if labels[j] != classes[i]]
        hardest, easiest = cos[i, negatives].max(), cos[i, positives].min()
        same += [(i, j) for j in positives if cos[i, j] < hardest + epsilon]
        other += [(i, j) for j in negatives if cos[i, j] > easiest - epsilon]
    return (*torch.tensor(same).T, *torch.tensor(other).T)


def test_memory_is_a_ring_of_the_latest_and_changes_at_the_end_of_a_step_only():
    module = BatchComparison(2, create_loss("supcon"), memory=5)
    assert module.memory is not None
    stored = []
    for step in range(4):
        embeddings = torch.randn(3, 2, generator=torch.Generator().manual_seed(step))
        classes = torch.tensor([step, step, step + 1])
        module(embeddings, classes)
        before = module.memory.rows.clone()
        assert len(module.memory.contents()[1]) == min(len(stored), 5)
        assert torch.equal(before, module.memory.rows)
        module.end()
        unit = F.normalize(embeddings, dim=1)
        stored += list(zip(classes.tolist(), unit.tolist(), strict=True))
        rows, labels = module.memory.contents()
        found = sorted(zip(labels.tolist(), rows.tolist(), strict=True))
        assert [label for label, _ in found] == sorted(label for label, _ in stored[-5:])
        torch.testing.assert_close(
            torch.tensor([row for _, row in found]),
            torch.tensor([row for _, row in sorted(stored[-5:])]),
        )
    module(embeddings, classes)  # a step that is skipped has no end
    again = module.memory.rows.clone()
    module(torch.ones(3, 2), classes)
    assert torch.equal(module.memory.rows, again)


def test_a_memory_smaller_than_the_batch_keeps_its_last():
    module = BatchComparison(DIM, create_loss("supcon"), memory=4)
    embeddings, classes = shuffled(0, (3, 4))
    module(embeddings.detach().float(), classes)
    module.end()
    assert module.memory is not None
    rows, labels = module.memory.contents()
    torch.testing.assert_close(rows, F.normalize(embeddings.detach().float(), dim=1)[-4:])
    assert torch.equal(labels, classes[-4:])


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_proxy_anchor_is_theirs(seed, sharded, chunk):
    embeddings, classes = shuffled(seed, (4, 1, 3, 2))
    count = 7  # three of them without an image
    ours = ProxyWeights(
        DIM, count, create_loss("proxy_anchor"), chunk=chunk, sharded=sharded, init_std=0.7
    ).double()
    reference = theirs.ProxyAnchorLoss(count, DIM, margin=0.1, alpha=32)
    reference.proxies = torch.nn.Parameter(ours.weight.detach().clone())
    losses = ours(embeddings, classes), reference(embeddings, classes)
    grads = [torch.autograd.grad(each, module, retain_graph=True)[0] for each, module in
             zip(losses, (ours.weight, reference.proxies), strict=True)]  # fmt: skip
    torch.testing.assert_close(*grads, rtol=1e-8, atol=1e-10)
    assert_equal(losses[0], embeddings, losses[1])
    cos = F.normalize(embeddings, dim=1) @ F.normalize(ours.weight, dim=1).t()
    assert torch.equal(ours.predict(embeddings), cos.argmax(1))


@pytest.mark.parametrize("name", ["proxy_anchor", *PAIR_LOSSES])
def test_half_precision_embeddings_are_computed_in_float32(name):
    embeddings, classes = batch(1)
    narrow = embeddings.detach().to(torch.bfloat16)
    if name == "proxy_anchor":
        module = ProxyWeights(DIM, 4, create_loss(name))
    else:
        module = BatchComparison(DIM, create_loss(name))
    with torch.autocast("cpu", torch.bfloat16):
        found = module(narrow, classes)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, module(narrow.float(), classes))


@pytest.mark.parametrize("name", ["proxy_anchor", *PAIR_LOSSES])
def test_extreme_embeddings_have_finite_losses_and_gradients(name):
    classes = torch.tensor([0, 0, 1, 1])
    for value in (
        torch.ones(4, DIM), torch.zeros(4, DIM), torch.eye(DIM)[[0, 0, 1, 1]],
        torch.eye(DIM)[[0, 1, 0, 1]], torch.full((4, DIM), 1e18),
    ):  # fmt: skip
        embeddings = value.clone().requires_grad_()
        if name == "proxy_anchor":
            module = ProxyWeights(DIM, 3, create_loss(name))
        else:
            module = BatchComparison(DIM, create_loss(name))
        loss = module(embeddings, classes)
        loss.backward()
        assert loss.isfinite()
        assert embeddings.grad is not None
        assert embeddings.grad.isfinite().all()
    broken = torch.ones(4, DIM)
    broken[2, 1] = torch.nan
    assert not module(broken, classes).isfinite()


def test_losses_of_the_registry():
    assert LOSSES.keys() == {*MARGINS, "proxy_anchor", *PAIR_LOSSES}
    for name, kind in LOSSES.items():
        assert kind.name == name
        assert create_loss(name).name == name
    assert {name for name, kind in LOSSES.items() if kind.needs_positives} == set(PAIR_LOSSES)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (
            "supcon",
            {"margin": 0.2},
            r"^loss.margin=0.2: supcon has no margin; leave it out \(its n",
        ),
        ("smooth_ap", {"scale": 3}, "^loss.scale=3: smooth_ap has no scale; .*temperature"),
        ("supcon", {"options": {"alpha": 1}}, "no option 'alpha'; its options are temperature$"),
        ("proxy_anchor", {"options": {"alpha": 1}}, "no option 'alpha'; it has none"),
        ("proxy_anchor", {"margin": -1}, r"loss.margin=-1 for proxy_anchor .*recommended: 0.1"),
        ("proxy_anchor", {"scale": 0}, "loss.scale=0 for proxy_anchor .*recommended: 32"),
        ("supcon", {"options": {"temperature": 0}}, "temperature=0 for supcon is not .*: 0.1"),
        ("multi_similarity", {"options": {"base": 3}}, "base=3 for multi_similarity is not a cos"),
        ("recall_at_k", {"options": {"k_max": math.inf}}, "k_max=inf for recall_at_k is not"),
        ("recall", {}, "loss.name='recall' is not one of amsoftmax, .*recall_at_k$"),
    ],
)
def test_numbers_without_a_meaning_are_refused(name, values, message):
    with pytest.raises(ConfigError, match=message):
        create_loss(name, **values)
