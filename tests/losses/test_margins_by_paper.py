"""Margins of more than the cosine, against their papers written out in full.

The references hold all B x C logits and a one-hot mask, take angles by acos and gradients by
autograd, in float64, and keep their running statistics as the authors' code does.
"""

import math

import pytest
import pytorch_metric_learning.losses as pml
import torch
import torch.nn.functional as F
from losses_reference import draw, head_with

from lookalike.losses import create_loss
from lookalike.losses.margin import RowContext
from lookalike.losses.margins.arcface import turned

# In two dimensions the cosines cover all of [-1, 1], past every angle at which a formula changes.
SHAPES = [(40, 16, 50), (500, 2, 11), (5, 5, 2), (2, 3, 1)]


def cosines(embeddings, weight, centres):
    """Of every class by its nearest centre, (B, C)."""
    every = F.normalize(embeddings) @ F.normalize(weight).t()
    return every.view(len(embeddings), -1, centres).amax(2)


def row_losses(logits, classes, smoothing):
    """Cross-entropy with the share `smoothing` spread over the other classes, (B,)."""
    log_p = F.log_softmax(logits, dim=1)
    target = F.one_hot(classes, logits.shape[1]).double()
    if logits.shape[1] > 1:
        target = (1 - smoothing) * target + smoothing * (1 - target) / (logits.shape[1] - 1)
    return -(target * log_p).sum(1)


def arc(cos, m):
    """cos(angle + m), and past 180 degrees the authors' way on."""
    angle = torch.acos(cos)
    return torch.where(angle + m <= math.pi, torch.cos(angle + m), cos - m * torch.sin(m))


class AdaFaceByPaper:
    def __init__(self, m=0.4, s=64, h=0.333, t_alpha=0.01):
        self.m, self.s, self.h, self.t_alpha = m, s, h, t_alpha
        self.state = torch.tensor([20.0, 100.0], dtype=torch.float64)

    def logits(self, cos, hot, lengths, counts):
        safe = lengths.detach().clip(0.001, 100)
        batch = torch.stack([safe.mean(), safe.std()])
        self.state = self.t_alpha * batch + (1 - self.t_alpha) * self.state
        mean, std = self.state
        scaler = torch.clip((safe - mean) / (std + 1e-3) * self.h, -1, 1)[:, None]
        g_angular, g_additive = -self.m * scaler, self.m + self.m * scaler
        angle = torch.clip(torch.acos(cos) + hot * g_angular, 0, math.pi)
        return self.s * (torch.where(hot, angle.cos(), cos) - hot * g_additive), 0


class CurricularFaceByPaper:
    def __init__(self, m=28.6, s=64, momentum=0.01):
        self.m = torch.tensor(math.radians(m), dtype=torch.float64)
        self.s, self.momentum = s, momentum
        self.state = torch.zeros(1, dtype=torch.float64)

    def logits(self, cos, hot, lengths, counts):
        true = cos[hot][:, None]
        with torch.no_grad():
            self.state = self.momentum * true.mean(0) + (1 - self.momentum) * self.state
        added = true * torch.cos(self.m) - torch.sqrt(1 - true**2) * torch.sin(self.m)
        hard = cos * (self.state + cos)
        others = torch.where(cos > added, hard, cos)
        return self.s * torch.where(hot, arc(true, self.m), others), 0


class MagFaceByPaper:
    state = torch.zeros(0, dtype=torch.float64)

    def __init__(self, m=45.8, s=64, l_margin=25.8, l_a=10, u_a=110, lambda_g=35):
        self.l_m, self.u_m, self.s = math.radians(l_margin), math.radians(m), s
        self.l_a, self.u_a, self.lambda_g = l_a, u_a, lambda_g

    def logits(self, cos, hot, lengths, counts):
        a = lengths.clamp(self.l_a, self.u_a)[:, None]
        m = (self.u_m - self.l_m) / (self.u_a - self.l_a) * (a - self.l_a) + self.l_m
        g = 1 / self.u_a**2 * a + 1 / a
        return self.s * torch.where(hot, arc(cos, m), cos), self.lambda_g * g.mean()


class AdaptiveByPaper:
    """The authors' code: margins from 0.05 to 0.5, over the classes of the data."""

    state = torch.zeros(0, dtype=torch.float64)

    def __init__(self, s=80, power=0.25, lowest=0.05, highest=0.5, bounds=None):
        self.s, self.power, self.lowest, self.highest = s, power, lowest, highest
        self.bounds = bounds  # of n^-power; by default those of the data

    def logits(self, cos, hot, lengths, counts):
        shape = counts.double() ** -self.power
        low, high = self.bounds or (shape.min(), shape.max())
        margins = (shape - low) / (high - low) * (self.highest - self.lowest) + self.lowest
        m = margins.expand(len(cos), -1)
        return self.s * torch.where(hot, arc(cos, m), cos), 0


def adaptive_of_the_data(counts):
    options = {"least": math.degrees(0.05), "fewest": counts.min(), "most": counts.max()}
    return create_loss("adaptive_arcface", math.degrees(0.5), None, options), AdaptiveByPaper()


def adaptive_by_default(counts):
    paper = AdaptiveByPaper(lowest=math.radians(2.9), highest=math.radians(28.6), bounds=(0, 1))
    return create_loss("adaptive_arcface"), paper


def adaptive_with_other_values(counts):
    """Classes smaller than `fewest` and larger than `most` keep the bounds."""
    options = {"least": 10, "power": 0.6, "fewest": 5, "most": 100}
    paper = AdaptiveByPaper(20, 0.6, math.radians(10), math.radians(70), (100**-0.6, 5**-0.6))
    held = paper.logits
    paper.logits = lambda cos, hot, lengths, n: held(cos, hot, lengths, n.clamp(5, 100))
    return create_loss("adaptive_arcface", 70, 20, options), paper


CASES = {
    "adaface": lambda n: (create_loss("adaface"), AdaFaceByPaper()),
    "adaface, fast and wide": lambda n: (
        create_loss("adaface", 1.2, 20, {"h": 1, "t_alpha": 0.7}),
        AdaFaceByPaper(1.2, 20, 1, 0.7),
    ),
    "adaface, no memory": lambda n: (
        create_loss("adaface", options={"t_alpha": 1}),
        AdaFaceByPaper(t_alpha=1),
    ),
    "curricularface": lambda n: (create_loss("curricularface"), CurricularFaceByPaper()),
    "curricularface, fast": lambda n: (
        create_loss("curricularface", 60, 20, {"momentum": 0.6}),
        CurricularFaceByPaper(60, 20, 0.6),
    ),
    "magface": lambda n: (create_loss("magface"), MagFaceByPaper()),
    "magface, other values": lambda n: (
        create_loss("magface", 85, 16, {"l_margin": 3, "l_a": 2, "u_a": 60, "lambda_g": 50}),
        MagFaceByPaper(85, 16, 3, 2, 60, 50),
    ),
    "adaptive, of the data": adaptive_of_the_data,
    "adaptive, by default": adaptive_by_default,
    "adaptive, other values": adaptive_with_other_values,
}
NAMES = ["adaface", "adaptive_arcface", "curricularface", "magface"]


def by_paper(paper, embeddings, weight, classes, counts, *, centres=1, smoothing=0.0):
    """Loss and its gradients by embeddings and weight."""
    embeddings, weight = embeddings.clone().requires_grad_(), weight.clone().requires_grad_()
    cos = cosines(embeddings, weight, centres)
    hot = F.one_hot(classes, cos.shape[1]).bool()
    logits, added = paper.logits(cos, hot, embeddings.norm(dim=1), counts)
    loss = row_losses(logits, classes, smoothing).mean() + added
    return (loss.detach(), *torch.autograd.grad(loss, (embeddings, weight)))


def by_head(head, embeddings, classes):
    leaf = embeddings.clone().requires_grad_()
    loss = head(leaf, classes)
    return (loss.detach(), *torch.autograd.grad(loss, (leaf, head.weight)))


def lengthened(embeddings):
    """The same directions with lengths from 0.5 to 150: below, within and above all bounds."""
    drawn = 0.5 * 300 ** torch.rand(len(embeddings), 1, dtype=embeddings.dtype)
    return F.normalize(embeddings) * drawn


def assert_same(ours, theirs, tolerance):
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("centres", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("case", CASES)
def test_loss_gradients_and_state_are_those_of_the_paper(case, shape, centres, smoothing):
    rows, dim, count = shape
    counts = torch.randint(1, 1000, (count,))
    counts[0], counts[-1] = 1001, 1  # two sizes at least, where there are two classes
    if count == 1 and case == "adaptive, of the data":
        pytest.skip("the authors' formula divides by zero where all classes are of one size")
    margin, paper = CASES[case](counts)
    _, weight, _ = draw(1, dim, count * centres)
    head = head_with(
        margin, weight, centres=centres, chunk=4, label_smoothing=smoothing, class_counts=counts
    )
    for _ in range(3):
        embeddings, classes = draw_for(weight, rows, centres)
        ours = by_head(head, embeddings, classes)
        given = {"centres": centres, "smoothing": smoothing}
        assert_same(ours, by_paper(paper, embeddings, weight, classes, counts, **given), 1e-8)
        assert_same([head.margin_state], [paper.state], 1e-8)


def draw_for(weight, rows, centres):
    """Embeddings of many lengths and classes for this weight, away from angles of 0 and pi."""
    classes = torch.randint(len(weight) // centres, (rows,))
    embeddings = torch.empty(rows, weight.shape[1], dtype=weight.dtype)
    poor = torch.ones(rows, dtype=torch.bool)
    while poor.any():  # there acos, through which the references go, has too few digits
        embeddings[poor] = torch.randn(int(poor.sum()), weight.shape[1], dtype=weight.dtype)
        poor = (cosines(embeddings, weight, 1).abs() > 1 - 5e-7).any(1)
    return lengthened(embeddings), classes


def test_the_inputs_reach_every_branch():
    weight = torch.randn(11, 2, dtype=torch.float64)
    embeddings, classes = draw_for(weight, 500, 1)
    cos = cosines(embeddings, weight, 1)
    true, lengths = cos[torch.arange(500), classes], embeddings.norm(dim=1)
    for m in (math.radians(28.6), 0.4):
        assert (true < -math.cos(m)).any()  # past 180 degrees with the margin
    assert (true > math.cos(0.2)).any()
    for bound in (10, 100, 110):
        assert (lengths < bound).any()
        assert (lengths > bound).any()
    hard = cos > turned(true, math.cos(0.5), math.sin(0.5))[:, None]
    assert hard.any()
    assert not hard.all()


@pytest.mark.parametrize("centres", [1, 2, 5])
@pytest.mark.parametrize("shape", [(40, 16, 30), (500, 2, 7)])
def test_several_centres_are_those_of_pytorch_metric_learning(shape, centres):
    rows, dim, count = shape
    _, weight, _ = draw(1, dim, count * centres)
    embeddings, classes = draw_for(weight, rows, centres)
    theirs = pml.SubCenterArcFaceLoss(
        num_classes=count, embedding_size=dim, margin=28.6, scale=64, sub_centers=centres
    ).double()
    theirs.W.data.copy_(weight.t())
    leaf = embeddings.clone().requires_grad_()
    loss = theirs(leaf, classes)
    by_embedding, by_weight = torch.autograd.grad(loss, (leaf, theirs.W))
    head = head_with(create_loss("arcface"), weight, centres=centres, chunk=3)
    ours = by_head(head, embeddings, classes)
    assert_same(ours, (loss.detach(), by_embedding, by_weight.t()), 1e-8)


def off_the_edge(embeddings, weight, classes):
    """The rows of which no cosine lies where CurricularFace's logit jumps, (B,) bool.

    There the last bit decides which side is taken, and one such logit changes the gradient.
    """
    cos = cosines(embeddings.double(), weight.double(), 1)
    angle = torch.acos(cos[torch.arange(len(cos)), classes])
    edge = torch.cos(angle + math.radians(28.6))[:, None]
    return ((cos - edge).abs() > 2e-6).all(1)


@pytest.mark.parametrize("name", NAMES)
def test_float32_is_within_1e_5_of_float64(name):
    embeddings, weight, classes = draw(64, 128, 2000, torch.float32)
    counts = torch.randint(1, 1000, (2000,))
    papers = {
        "adaface": AdaFaceByPaper(),
        "adaptive_arcface": adaptive_by_default(counts)[1],
        "curricularface": CurricularFaceByPaper(),
        "magface": MagFaceByPaper(),
    }
    # Towards their classes, so that negatives compete with them.
    embeddings = lengthened(F.normalize(embeddings) + 0.5 * F.normalize(weight[classes]))
    kept = off_the_edge(embeddings, weight, classes)
    embeddings, classes = embeddings[kept], classes[kept]
    head = head_with(create_loss(name), weight, class_counts=counts)
    single = by_head(head, embeddings, classes)
    double = by_paper(papers[name], embeddings.double(), weight.double(), classes, counts)
    for mine, exact in zip(single, double, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - exact).norm() <= 1e-5 * exact.norm()


@pytest.mark.parametrize("name", NAMES)
def test_measuring_leaves_the_state_alone(name):
    _, weight, _ = draw(1, 6, 9)
    head = head_with(create_loss(name), weight).eval()
    before = head.margin_state.clone()
    head(*draw_for(weight, 20, 1))
    assert torch.equal(head.margin_state, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1, 500])
@pytest.mark.parametrize("name", NAMES)
def test_finite_at_the_extremes(name, scale, dtype):
    _, weight, _ = draw(1, 6, 12, dtype)
    weight[7] = 0
    weight[8] = weight[9]
    rows = [weight[0], -weight[1], weight[8] * 2, weight[7], weight[3] * 1e-25, weight[4] * 1e6]
    embeddings, classes = torch.stack(rows), torch.tensor([0, 1, 9, 3, 3, 7])
    head = head_with(create_loss(name, scale=scale), weight, chunk=4)
    for held in (slice(None), slice(0, 1), slice(3, 4)):  # a batch of one too
        for _ in range(2):
            results = by_head(head, embeddings[held], classes[held])
            assert all(result.isfinite().all() for result in results)
            assert head.margin_state.isfinite().all()
    alone = head_with(create_loss(name, scale=scale), weight[:1])
    results = by_head(alone, embeddings, torch.zeros(6, dtype=torch.int64))
    assert all(result.isfinite().all() for result in results)


def test_the_loss_of_one_class_is_the_penalty_of_magface():
    embeddings = torch.tensor([[3.0, 4.0], [30.0, 40.0], [300.0, 400.0]])
    head = head_with(create_loss("magface"), torch.randn(1, 2))
    loss, by_embedding, _ = by_head(head, embeddings, torch.zeros(3, dtype=torch.int64))
    expected = 35 * sum(a / 110**2 + 1 / a for a in (10, 50, 110)) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert by_embedding[[0, 2]].abs().max() == 0  # clipped
    along = (by_embedding[1] @ embeddings[1]) / 50
    assert along.item() == pytest.approx(35 / 3 * (1 / 110**2 - 1 / 50**2), rel=1e-5)


def test_one_embedding_leaves_the_standard_deviation_of_adaface():
    margin = create_loss("adaface", options={"t_alpha": 0.5})
    state = torch.tensor([20.0, 100.0])
    seen = margin.observe(torch.zeros(1), torch.tensor([30.0]))
    after = margin.advance(state, seen.mean(1), torch.tensor(1.0))
    assert after.tolist() == [25, 100]


@pytest.mark.parametrize("middle", [1.0, 22.6, 60.0])
def test_small_spreads_of_length_survive_float32(middle):
    margin = create_loss("adaface", options={"t_alpha": 1})
    lengths = middle + 0.1 * torch.randn(256)
    means = margin.observe(torch.zeros(256), lengths).mean(1)
    _, std = margin.advance(torch.tensor([20.0, 100.0]), means, torch.tensor(256))
    assert std.item() == pytest.approx(lengths.double().std().item(), rel=0.05)


def test_the_margin_of_magface_runs_from_l_margin_to_margin():
    margin = create_loss("magface")
    angle = torch.full((5,), 0.9, dtype=torch.float64)
    lengths = torch.tensor([0.0, 10, 60, 110, 500], dtype=torch.float64)
    target = margin.target(angle.cos(), RowContext(lengths, torch.ones(5), torch.zeros(0)))
    degrees = torch.rad2deg(target.acos() - angle)
    expected = torch.tensor([25.8, 25.8, 35.8, 45.8, 45.8], dtype=torch.float64)
    torch.testing.assert_close(degrees, expected)
