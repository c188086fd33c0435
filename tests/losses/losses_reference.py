"""The losses as their papers write them: full logits, one-hot masks, acos, plain autograd."""

import math

import torch
import torch.nn.functional as F

from lookalike.losses.class_weights import HeadOptions
from lookalike.losses.head import Head

# The margins that are a function of the cosine alone; the others are tested by their papers.
PLAIN = ["amsoftmax", "arcface", "cosface", "large_margin_softmax", "sphereface", "softmax"]


def target_cosine(name, margin, cos):
    """The cosine of the true class with the margin of each paper."""
    if name in ("amsoftmax", "cosface"):
        return cos - margin
    if name == "softmax":
        return cos
    angle = torch.acos(cos.clamp(-1 + 1e-15, 1 - 1e-15))
    if name == "arcface":
        m = math.radians(margin)
        return torch.where(angle + m <= math.pi, torch.cos(angle + m), cos - m * math.sin(m))
    assert name in ("large_margin_softmax", "sphereface")
    value = torch.full_like(cos, math.nan)
    for k in range(int(margin)):  # segment by segment, as in the papers
        here = (angle >= k * math.pi / margin) & (angle <= (k + 1) * math.pi / margin)
        value = torch.where(here, (-1) ** k * torch.cos(margin * angle) - 2 * k, value)
    return value


def row_losses(margin, embeddings, weight, classes, smoothing=0.0):
    """-log p of each row with label smoothing, (B,), from the B x C logits.

    Of rows with several classes, (B, L), the mean over each, without the row's other classes.
    """
    if classes.ndim == 2:
        return torch.stack(
            [
                torch.stack(
                    [
                        row_losses(
                            margin,
                            row[None],
                            weight[[j for j in range(len(weight)) if j == y or j not in own]],
                            torch.tensor([y - sum(j < y for j in own)]),
                            smoothing,
                        )[0]
                        for y in own
                    ]
                ).mean()
                for row, own in zip(embeddings, _real(classes), strict=True)
            ]
        )
    count = len(weight)
    cos = F.normalize(embeddings) @ F.normalize(weight).t()  # (B, C)
    one_hot = F.one_hot(classes, count).bool()
    true = target_cosine(margin.name, margin.margin, cos.gather(1, classes[:, None]))
    logits = torch.where(one_hot, true, cos) * margin.scale
    if margin.name in ("large_margin_softmax", "sphereface", "softmax"):
        logits = logits * embeddings.norm(dim=1, keepdim=True)
    if margin.name in ("large_margin_softmax", "softmax"):
        logits = logits * weight.norm(dim=1)
    log_p = F.log_softmax(logits, dim=1)
    if smoothing == 0 or count == 1:
        return -log_p[one_hot]
    share = torch.full_like(log_p, smoothing / (count - 1))
    share[one_hot] = 1 - smoothing
    return -(share * log_p).sum(1)


def _real(classes):
    return [[y for y in own if y >= 0] for own in classes.tolist()]


def loss_and_gradients(margin, embeddings, weight, classes, smoothing=0.0, of_rows=1.0):
    """Mean loss, each row times its weight, its gradient by the embeddings and by the weight."""
    embeddings = embeddings.detach().requires_grad_()
    weight = weight.detach().requires_grad_()
    loss = (of_rows * row_losses(margin, embeddings, weight, classes, smoothing)).mean()
    return (loss.detach(), *torch.autograd.grad(loss, (embeddings, weight)))


def head_loss_and_gradients(head, embeddings, classes):
    """The same three from a head."""
    embeddings = embeddings.detach().requires_grad_()
    loss = head(embeddings, classes)
    return (loss.detach(), *torch.autograd.grad(loss, (embeddings, head.weight)))


def draw(rows, dim, count, dtype=torch.float64):
    """Random embeddings (B, D), weight (C, D) and classes (B,)."""
    weight = torch.randn(count, dim, dtype=dtype) * (0.3 + torch.rand(count, 1, dtype=dtype))
    classes = torch.randint(count, (rows,))
    embeddings = torch.empty(rows, dim, dtype=dtype)
    # Within 1e-3 of 0 and pi the references, which go through acos, have too few digits left.
    poor = torch.ones(rows, dtype=torch.bool)
    while poor.any():
        embeddings[poor] = torch.randn(int(poor.sum()), dim, dtype=dtype)
        poor = F.cosine_similarity(embeddings, weight[classes]).abs() > 1 - 5e-7
    return embeddings * (0.3 + 2 * torch.rand(rows, 1, dtype=dtype)), weight, classes


def head_with(margin, weight, *, centres=1, **arguments):
    """A head that holds `weight`; fields of HeadOptions and arguments of Head alike."""
    names = HeadOptions.__dataclass_fields__
    options = HeadOptions(
        centres=centres, **{key: arguments.pop(key) for key in list(arguments) if key in names}
    )
    head = Head(weight.shape[1], len(weight) // centres, margin, options, **arguments)
    head = head.to(weight.dtype)
    with torch.no_grad():
        rows = head.rows
        head.weight.copy_(weight[rows.start * centres : rows.stop * centres])
    return head
