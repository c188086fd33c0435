"""Images of several classes: losses and gradients against dense ones with masks, in float64."""

import pytest
import torch
import torch.nn.functional as F
from losses_reference import draw, head_with

from lookalike.losses import MARGINS, create_loss
from lookalike.losses.head_update import UpdateRule
from lookalike.losses.margin import RowContext
from lookalike.losses.pairs.batch_comparison import BatchComparison
from lookalike.losses.pairs.proxy_weights import ProxyWeights

ROWS, DIM, COUNT, LABELS = 9, 5, 8, 3


def several(rows=ROWS, count=COUNT):
    """(rows, LABELS) different classes, 1 to LABELS each, -1 behind the last."""
    classes = torch.stack([torch.randperm(count)[:LABELS] for _ in range(rows)])
    number = torch.arange(rows) % LABELS + 1
    return classes.masked_fill(torch.arange(LABELS) >= number[:, None], -1)


def members(classes, count):
    """(rows, count) bool."""
    return (F.one_hot(classes.clamp_min(0), count) * (classes >= 0)[..., None]).sum(1).bool()


def dense_losses(margin, embeddings, weight, classes, counts, state, smoothing, above=None):
    """Row by row and label by label, from the whole matrix of cosines."""
    mine = members(classes, len(weight))
    cos = F.normalize(embeddings) @ F.normalize(weight).t()
    length = embeddings.norm(dim=1)
    losses = []
    for i in range(len(embeddings)):
        own = classes[i][classes[i] >= 0]
        norms = margin.scale * torch.ones(len(weight), dtype=cos.dtype)
        norms = norms * length[i] if margin.embedding_norm else norms
        norms = norms * weight.norm(dim=1) if margin.weight_norm else norms
        negative = cos[i][~mine[i]]
        middle = cos[i][own].mean().detach()
        one = RowContext(length[i : i + 1], counts[own[:1]], state)
        change = margin.negatives(middle[None], one)
        if change is not None:
            bent = negative * (change.linear + change.square * negative)
            negative = torch.where(negative > change.above, bent, negative)
        others = negative * norms[~mine[i]]
        if above is not None:
            others = others[cos[i][~mine[i]] <= above]
        parts = []
        for y in own:
            context = RowContext(length[i : i + 1], counts[y : y + 1], state)
            true = margin.target(cos[i, y][None], context)[0] * norms[y]
            part = torch.cat([true[None], others]).logsumexp(0) - true
            parts.append(part + smoothing * (true - others.mean()) if smoothing else part)
        loss = torch.stack(parts).mean()
        penalty = margin.penalty(RowContext(length[i : i + 1], counts[own[:1]], state))
        losses.append(loss if penalty is None else loss + penalty[0])
    return torch.stack(losses)


def gradients(loss, *leaves):
    return (loss.detach(), *torch.autograd.grad(loss, leaves))


@pytest.mark.parametrize("name", sorted(MARGINS))
def test_a_margin_against_the_dense_matrix(name):
    margin = create_loss(name, scale=None if name == "large_margin_softmax" else 5.0)
    embeddings, weight, _ = draw(ROWS, DIM, COUNT)
    classes, weights = several(), 3 * torch.rand(ROWS, dtype=torch.float64)
    counts = torch.arange(1, COUNT + 1).double() * 10
    smoothing = 0.0 if margin.initial_state else 0.1
    head = head_with(margin, weight, chunk=3, label_smoothing=smoothing, class_counts=counts)
    head.eval()
    state = margin.initial_state
    if state:
        unit = F.normalize(embeddings) @ F.normalize(weight).t()
        mine = members(classes, COUNT)
        cos = torch.stack([unit[i][mine[i]].mean() for i in range(ROWS)])
        seen = margin.observe(cos, embeddings.norm(dim=1)).mean(1)
        state = margin.advance(torch.tensor(state).double(), seen, torch.tensor(ROWS))
    state = torch.as_tensor(state).double()
    leaf = embeddings.clone().requires_grad_()
    found = gradients(head(leaf, classes, weights), leaf, head.weight)
    leaf, dense = embeddings.clone().requires_grad_(), weight.clone().requires_grad_()
    losses = dense_losses(margin, leaf, dense, classes, counts, state, smoothing)
    expected = gradients((weights * losses).mean(), leaf, dense)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_one_class_each_gives_the_same_as_a_plain_column():
    embeddings, weight, classes = draw(ROWS, DIM, COUNT)
    padded = torch.stack([classes, torch.full_like(classes, -1)], 1)
    found = []
    for given in (classes, padded):
        head = head_with(create_loss("curricularface"), weight, label_smoothing=0.1)
        leaf = embeddings.clone().requires_grad_()
        found.append((*gradients(head(leaf, given), leaf, head.weight), head.margin_state))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("centres", [1, 2])
def test_centres_and_the_filter(centres):
    embeddings, weight, _ = draw(ROWS, DIM, COUNT * centres)
    classes, margin = several(), create_loss("cosface", 0.2, 6.0)
    head = head_with(margin, weight, centres=centres, chunk=3, filter_above=0.3)
    # The nearest centre of each class stands for it.
    cos = (F.normalize(embeddings) @ F.normalize(weight).t()).view(ROWS, COUNT, centres)
    nearest = cos.argmax(2)
    counts, state = torch.ones(COUNT).double(), torch.empty(0)
    expected = torch.cat([
        dense_losses(
            margin, embeddings[i : i + 1],
            weight.view(COUNT, centres, DIM)[torch.arange(COUNT), nearest[i]],
            classes[i : i + 1], counts, state, 0.0, above=0.3,
        )
        for i in range(ROWS)
    ]).mean()  # fmt: skip
    torch.testing.assert_close(head(embeddings, classes).detach(), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("rate", [1.0, 0.4])
def test_a_fused_update_takes_the_step_of_the_gradient(rate):
    count = 40  # more than the batch has
    embeddings, weight, _ = draw(ROWS, DIM, count)
    classes = several(count=count)
    rule = UpdateRule("sgd", momentum=0.0)
    head = head_with(create_loss("arcface"), weight, update=rule, sample_rate=rate, chunk=3)
    head.update.lr = 0.3
    head.begin()
    kept = torch.arange(count)
    if head.sampler is not None:
        kept = head.sampler.draw(classes, head.update.steps)  # the same as in the step below
    assert (len(kept) < count) is (rate < 1)
    head(embeddings, classes).backward()
    head.end()
    place = torch.full((count + 1,), -1).index_put((kept,), torch.arange(len(kept)))
    plain = head_with(create_loss("arcface"), weight[kept])
    plain(embeddings, place[classes]).backward()
    torch.testing.assert_close(
        head.weight[kept], weight[kept] - 0.3 * plain.weight.grad, rtol=1e-9, atol=1e-11
    )


def test_an_unknown_class_is_refused():
    head = head_with(create_loss("cosface"), draw(2, DIM, COUNT)[1])
    for wrong in ([[-1, 2], [0, 1]], [[1, 2], [0, COUNT]], [[1, -2], [0, 1]]):
        with pytest.raises(ValueError, match=r"is not in \[0, 8\)"):
            head(torch.ones(2, DIM).double(), torch.tensor(wrong))


@pytest.mark.parametrize("memory", [0, 12])
def test_supcon_counts_a_common_class_as_positive(memory):
    loss = BatchComparison(DIM, create_loss("supcon"), memory=memory, labels=LABELS).double()
    batches = [(draw(ROWS, DIM, 3)[0], several(count=9)) for _ in range(2)]
    for embeddings, classes in batches[: 2 if memory else 1]:
        loss.end()
        got = loss(embeddings, classes).item()
    unit = F.normalize(torch.cat([batches[1 if memory else 0][0], batches[0][0]]))
    labels = torch.cat([batches[1 if memory else 0][1], batches[0][1]])
    if not memory:
        unit, labels = unit[:ROWS], labels[:ROWS]
    mine = members(labels, 9)
    same = (mine.double() @ mine.double().t()) > 0
    logits, total, number = unit @ unit.t() / 0.1, 0.0, 0
    for i in range(ROWS):
        others = [j for j in range(len(unit)) if j != i]
        positives = [j for j in others if same[i, j]]
        if positives:
            mass = logits[i, others].logsumexp(0)
            total, number = total + (mass - logits[i, positives]).mean().item(), number + 1
    assert number > 2
    assert got == pytest.approx(total / number, rel=1e-10)


def test_proxy_anchor_counts_an_image_in_each_of_its_classes():
    loss = create_loss("proxy_anchor")
    embeddings, classes = draw(ROWS, DIM, COUNT)[0], several()
    proxies = ProxyWeights(DIM, COUNT, loss, chunk=3, init_std=0.7).double()
    cos = F.normalize(embeddings) @ F.normalize(proxies.weight.detach()).t()
    mine = members(classes, COUNT)
    near = far = 0.0
    for c in range(COUNT):
        here, rest = cos[mine[:, c], c], cos[~mine[:, c], c]
        near += torch.log1p(torch.exp(loss.scale * (loss.margin - here)).sum()).item()
        far += torch.log1p(torch.exp(loss.scale * (loss.margin + rest)).sum()).item()
    expected = near / int(mine.any(0).sum()) + far / COUNT
    assert proxies(embeddings, classes).item() == pytest.approx(expected, rel=1e-10)
