"""Loss and gradients against pytorch-metric-learning and against the plain formulas."""

import pytest
import pytorch_metric_learning.losses as pml
import torch
import torch.nn.functional as F
from losses_reference import PLAIN, draw, head_loss_and_gradients, head_with, loss_and_gradients
from torch.utils._python_dispatch import TorchDispatchMode

from lookalike.losses import chunk_products, create_loss
from lookalike.losses.chunk_products import ChunkOptions
from lookalike.losses.chunk_softmax import LogitModulation
from lookalike.losses.class_statistics import class_statistics
from lookalike.losses.margin import RowContext

# PML builds its binomials through numpy.asarray of a tensor's items, which numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")

PML = {
    "amsoftmax": pml.CosFaceLoss,  # the same formula
    "cosface": pml.CosFaceLoss,
    "arcface": pml.ArcFaceLoss,
    "large_margin_softmax": pml.LargeMarginSoftmaxLoss,
    "sphereface": pml.SphereFaceLoss,
}
# (B, D, C): in two dimensions the cosines cover all of [-1, 1] densely: every segment of the
# multiplied angles, and ArcFace past angle + margin = 180 degrees.
SHAPES = [(40, 16, 50), (500, 2, 11), (3, 5, 2)]


def make_head(margin, weight, **options):
    return head_with(margin, weight, **options)


def assert_same(ours, theirs, tolerance=1e-8):
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("name", "value", "scale"),
    [
        *[(name, None, None) for name in PML],
        ("arcface", 60, 20),
        ("large_margin_softmax", 3, 2),
        ("large_margin_softmax", 1, 1),
        ("sphereface", 5, 4),
        ("sphereface", 2, 30),
    ],
)
def test_equal_to_pytorch_metric_learning(name, value, scale, shape):
    # Over random inputs PML agrees everywhere. It departs from the formulas only where the
    # cosine is exactly -1 or 1; test_where_pml_departs_from_the_formulas shows how.
    margin = create_loss(name, value, scale)
    embeddings, weight, classes = draw(*shape)
    theirs = PML[name](shape[2], shape[1], margin=margin.margin, scale=margin.scale).double()
    theirs.W.data.copy_(weight.t())
    leaf = embeddings.clone().requires_grad_()
    loss = theirs(leaf, classes)
    by_embedding, by_weight = torch.autograd.grad(loss, (leaf, theirs.W))
    ours = head_loss_and_gradients(make_head(margin, weight, chunk=7), embeddings, classes)
    assert_same(ours, (loss.detach(), by_embedding, by_weight.t()))


def test_where_pml_departs_from_the_formulas():
    # L-Softmax and SphereFace at cosine -1: k = floor(m * angle / pi) is m there, one more than
    # the last segment (Equation 6 of arXiv 1612.02295 has k <= m - 1). psi is the same, but its
    # slope has the wrong sign. It is harmless in PML's whole loss only because the gradient
    # multiplies it by the part of the weight across the embedding, which is 0 there.
    cos = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
    theirs = pml.LargeMarginSoftmaxLoss(2, 2, margin=4).double()
    theirs.cast_types(torch.float64, cos.device)
    unread = RowContext(cos.detach(), cos.detach(), cos.detach()[:0])
    ours = create_loss("large_margin_softmax").target(cos, unread)
    psi = theirs.modify_cosine_of_target_classes(cos).squeeze()
    assert psi.item() == pytest.approx(ours.item(), abs=1e-12) == -7
    assert torch.autograd.grad(psi.sum(), cos)[0].item() == pytest.approx(-16)
    assert torch.autograd.grad(ours.sum(), cos)[0].item() == pytest.approx(16)


def test_softmax_is_cross_entropy_of_the_linear_layer():
    embeddings, weight, classes = draw(40, 16, 50)
    margin = create_loss("softmax")
    ours = head_loss_and_gradients(make_head(margin, weight, chunk=8), embeddings, classes)
    leaf, other = embeddings.clone().requires_grad_(), weight.clone().requires_grad_()
    loss = F.cross_entropy(leaf @ other.t(), classes)
    assert_same(ours, (loss.detach(), *torch.autograd.grad(loss, (leaf, other))), 1e-12)
    one = create_loss("large_margin_softmax", 1)
    assert_same(head_loss_and_gradients(make_head(one, weight), embeddings, classes), ours, 1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("shape", [*SHAPES, (6, 4, 1)])
@pytest.mark.parametrize("name", PLAIN)
def test_equal_to_the_plain_formula(name, shape, smoothing):
    margin = create_loss(name)
    embeddings, weight, classes = draw(*shape)
    head = make_head(margin, weight, chunk=4, label_smoothing=smoothing)
    ours = head_loss_and_gradients(head, embeddings, classes)
    assert_same(ours, loss_and_gradients(margin, embeddings, weight, classes, smoothing), 1e-9)


@pytest.mark.parametrize("name", PLAIN)
def test_chunks_change_nothing(name):
    embeddings, weight, classes = draw(12, 6, 37)
    margin = create_loss(name)
    whole = head_loss_and_gradients(make_head(margin, weight), embeddings, classes)
    for chunk in (1, 2, 36, 37, 1000):
        head = make_head(margin, weight, chunk=chunk, label_smoothing=0)
        assert_same(head_loss_and_gradients(head, embeddings, classes), whole, 1e-11)


@pytest.mark.parametrize("normalize", [False, True])
def test_statistics_pass_gradcheck(normalize, monkeypatch):
    monkeypatch.setattr(chunk_products, "CPU_LOGIT_CACHE", 0.6)  # some of the logits
    rows, weight, _ = draw(5, 3, 8)
    classes = torch.tensor([0, 7, 3, -1, 9])  # two of them are elsewhere
    rows.requires_grad_()
    weight.requires_grad_()

    def statistics(rows, weight):
        options = ChunkOptions(
            normalize=normalize, need_total=True, need_length=not normalize, chunk=3
        )
        found = class_statistics(rows, weight, classes, options)
        # The length has no gradient where the classes are normalised.
        return found[:3] if normalize else found

    assert torch.autograd.gradcheck(statistics, (rows, weight))


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("centres", [1, 3])
@pytest.mark.parametrize("ascending", [False, True])
def test_gradients_of_the_statistics_are_those_of_all_logits_at_once(modulated, centres, ascending):
    rows, weight, _ = draw(6, 5, 24 * centres)
    rows = 8 * rows
    classes = torch.tensor([0, 23, 11, 5, -1, 30])  # two of them are elsewhere
    if ascending:  # every chunk raises the peak
        order = (rows @ F.normalize(weight).t()).view(6, 24, centres)
        weight = weight.view(24, centres, 5)[order.amax(2)[0].argsort()].flatten(0, 1)
    modulation = None
    if modulated:
        above, linear, square = torch.rand(3, 6, dtype=rows.dtype)
        modulation = LogitModulation(above, linear, square / 9, torch.full_like(above, torch.inf))
    factors = torch.randn(3, 6, dtype=rows.dtype)

    def gradients(statistics):
        leaves = [rows.clone().requires_grad_(), weight.clone().requires_grad_()]
        found = statistics(*leaves)
        loss = sum((factor * value).sum() for factor, value in zip(factors, found, strict=True))
        return [torch.stack(found).detach(), *torch.autograd.grad(loss, leaves)]

    def ours(rows, weight):
        options = ChunkOptions(normalize=True, need_total=True, centres=centres, chunk=5)
        return class_statistics(rows, weight, classes, options, modulate=lambda true: modulation)[
            :3
        ]

    def plain(rows, weight):
        z = (rows @ F.normalize(weight).t()).view(6, 24, centres).amax(2)
        own = torch.arange(24) == classes[:, None]  # (B, C)
        others = z
        if modulation is not None:
            hard = z > modulation.above[:, None]
            others = (z * (modulation.linear[:, None] + modulation.square[:, None] * z)).where(
                hard, z
            )
        lse = others.masked_fill(own, -torch.inf).logsumexp(1)
        return lse, others.masked_fill(own, 0).sum(1), z.where(own, 0).sum(1)

    for mine, exact in zip(gradients(ours), gradients(plain), strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PLAIN)
def test_loss_passes_gradcheck(name):
    embeddings, weight, classes = draw(4, 3, 5)
    head = make_head(create_loss(name), weight, chunk=2, label_smoothing=0.1)

    def loss(embeddings, weight):
        return torch.func.functional_call(head, {"weight": weight}, (embeddings, classes))

    embeddings.requires_grad_()
    assert torch.autograd.gradcheck(loss, (embeddings, head.weight))


@pytest.mark.parametrize("name", PLAIN)
def test_frozen_weight_or_embeddings(name):
    embeddings, weight, classes = draw(12, 6, 37)
    margin = create_loss(name)
    _, by_embedding, by_weight = loss_and_gradients(margin, embeddings, weight, classes)
    head = make_head(margin, weight, chunk=8)
    head(embeddings, classes).backward()
    torch.testing.assert_close(head.weight.grad, by_weight, rtol=1e-9, atol=1e-9)
    head.weight.requires_grad_(False)
    leaf = embeddings.clone().requires_grad_()
    head(leaf, classes).backward()
    torch.testing.assert_close(leaf.grad, by_embedding, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PLAIN)
def test_float32_is_within_1e_5_of_float64(name):
    embeddings, weight, classes = draw(64, 128, 3000, torch.float32)
    margin = create_loss(name)
    single = head_loss_and_gradients(make_head(margin, weight), embeddings, classes)
    double = loss_and_gradients(margin, embeddings.double(), weight.double(), classes)
    for mine, exact in zip(single, double, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - exact).norm() <= 1e-5 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_embeddings_and_autocast_compute_in_float32(dtype):
    embeddings, weight, classes = draw(16, 32, 100, torch.float32)
    half = embeddings.to(dtype)
    head = make_head(create_loss("arcface"), weight, chunk=16)
    loss, by_embedding, by_weight = head_loss_and_gradients(head, half.float(), classes)
    nearest = head.predict(half.float())
    leaf = half.clone().requires_grad_()
    with torch.autocast("cpu", dtype):
        under = head(leaf, classes)
        under.backward()  # inside the region too
        assert torch.equal(head.predict(leaf), nearest)
    assert under.dtype == torch.float32
    assert torch.equal(under, loss)
    assert torch.equal(head.weight.grad, by_weight)
    assert leaf.grad.dtype == dtype
    assert torch.equal(leaf.grad, by_embedding.to(dtype))
    assert torch.equal(head.predict(half), nearest)


def test_the_case_that_a_corrected_logsumexp_gets_wrong():
    # performance.md: scale 64, margin 0.35, cosine 0.7 in float32: -inf by correction, and
    # 0.061792 by masking, with one class at 0.7 and negatives that add up to the stated loss.
    sine = (1 - 0.7**2) ** 0.5
    negative = 0.35 + torch.tensor(0.061792).expm1().log().item() / 64
    weight = torch.tensor([[0.7, sine], [negative, -((1 - negative**2) ** 0.5)]])
    head = make_head(create_loss("cosface"), weight)
    loss = head(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    assert loss.item() == pytest.approx(0.061792, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1, 500])
@pytest.mark.parametrize("name", PLAIN)
def test_finite_at_the_extremes(name, scale, dtype):
    _, weight, _ = draw(1, 6, 40, dtype)
    weight[7] = 0
    weight[8] = weight[9]
    weight[10] = -3 * weight[11]
    weight[12] *= 1e-25  # its square underflows in float32
    weight[13] *= 1e6
    rows = [weight[0], -weight[1], weight[8] * 2, weight[11], weight[7], weight[14] * 1e-25]
    embeddings = torch.stack([*rows, weight[15] * 100, weight[20], weight[12], weight[13]])
    classes = torch.tensor([0, 1, 9, 10, 3, 14, 16, 7, 12, 13])
    for count in (40, 15):
        held = classes < count
        head = make_head(create_loss(name, scale=scale), weight[:count], chunk=4)
        results = head_loss_and_gradients(head, embeddings[held], classes[held])
        assert all(result.isfinite().all() for result in results)


@pytest.mark.parametrize("name", PLAIN)
def test_vectors_without_a_direction(name):
    # A zero embedding: every cosine is 0, and no gradient of 1e12 goes to the backbone.
    embeddings, weight, classes = draw(4, 6, 9)
    embeddings[1] = 0
    weight[2] = 0
    classes[:] = torch.tensor([0, 1, 2, 8])
    margin = create_loss(name)
    head = make_head(margin, weight, chunk=4)
    loss, by_embedding, by_weight = head_loss_and_gradients(head, embeddings, classes)
    expected, _, _ = loss_and_gradients(margin, embeddings, weight, classes)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    bound = 1e3 * margin.scale
    assert by_embedding.abs().max() < bound
    assert by_weight.abs().max() < bound
    if not margin.embedding_norm:
        assert by_embedding[1].abs().max() == 0
    if not margin.weight_norm:
        assert by_weight[2].abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_one_class_costs_nothing(name, dtype, smoothing):
    embeddings, weight, classes = draw(5, 3, 1, dtype)
    head = make_head(create_loss(name), weight, label_smoothing=smoothing)
    for result in head_loss_and_gradients(head, embeddings, classes):
        assert result.abs().max() == 0


@pytest.mark.parametrize("name", ["arcface", "cosface", "amsoftmax"])
@pytest.mark.parametrize("sign", [1, -1])
def test_scale_500_at_cosines_of_exactly_one(name, sign):
    # Orthonormal classes and embeddings on them: every cosine is exactly 0 or +-1.
    weight = torch.eye(6, dtype=torch.float64)
    classes = torch.arange(6)
    margin = create_loss(name, scale=500)
    ours = head_loss_and_gradients(make_head(margin, weight), sign * weight, classes)
    assert_same(ours, loss_and_gradients(margin, sign * weight, weight, classes), 1e-6)


class Allocations(TorchDispatchMode):
    """Remembers how much memory each tensor that an operation returned lies in."""

    def __init__(self):
        super().__init__()
        self.bytes = {}  # address of the storage -> size
        self.largest = 0  # elements of any result, views too

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.bytes[storage.data_ptr()] = storage.nbytes()
                self.largest = max(self.largest, tensor.numel())
        return result


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", PLAIN)
def test_no_logits_and_no_second_weight_in_memory(name, smoothing):
    rows, dim, count = 64, 8, 2000
    embeddings, weight, classes = draw(rows, dim, count, torch.float32)
    head = make_head(create_loss(name), weight, chunk=100, label_smoothing=smoothing)
    leaf = embeddings.clone().requires_grad_()
    with Allocations() as ours:
        head(leaf, classes).backward()
    with Allocations() as plain:
        loss_and_gradients(head.margin, embeddings, weight, classes)
    assert plain.largest >= rows * count  # the instrument sees what it looks for
    assert ours.largest == dim * count < rows * count
    large = [size for size in ours.bytes.values() if size >= dim * count * 4]
    assert len(large) <= 2  # the weight itself and its gradient
    assert head.weight.grad is not None
