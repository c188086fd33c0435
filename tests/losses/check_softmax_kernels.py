"""Triton's softmax kernels against those in torch, in float64 and in float32."""

import pytest
import torch

from lookalike.losses import chunk_softmax, triton_softmax
from lookalike.losses.chunk_softmax import LogitModulation, RowSums

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# One part and several, of the row and of the rows; no multiple of any block.
SHAPES = [(1, 1), (1, 1500), (3, 700), (37, 130)]


@pytest.fixture(autouse=True)
def _fresh_numbers():
    print(f"torch.manual_seed({torch.seed()})")


def draw(rows, n, modulated):
    z = torch.randn(rows, n, device=DEVICE) * 20
    column = torch.randint(-2, n + 2, (rows,), device=DEVICE)
    column[0] = n - 1  # at the edge
    if rows > 1:
        column[1], column[2] = 0, -1  # at the other, and just outside
    modulation = None
    if modulated:
        above = torch.randn(rows, device=DEVICE) * 10
        linear, square = torch.rand(2, rows, device=DEVICE)
        limit = above + 30 * torch.rand(rows, device=DEVICE)
        modulation = LogitModulation(above, linear, square / 20, limit)
    return z, column, modulation


def wider(modulation):
    return modulation and LogitModulation(*(v.double() for v in vars(modulation).values()))


def close(mine, reference, size=1.0):
    """Equal within float32's error of a number of the given size."""
    assert mine.dtype == torch.float32
    torch.testing.assert_close(mine.double(), reference, rtol=3e-6, atol=2e-6 * size)


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("total", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_sums_of_two_chunks(shape, total, modulated):
    exact, mine = None, None
    _, _, modulation = draw(*shape, modulated)
    for _ in range(2):
        z, column, _ = draw(*shape, modulated)
        if mine is None:
            mine = RowSums.empty(z, total)
            exact = RowSums.empty(z.double(), total)
        before = z.clone()
        # A limit may cross the logits' rounding in neither: they are the same numbers.
        triton_softmax.add_chunk(mine, z, column, modulation)
        chunk_softmax.add_chunk(exact, z.double(), column, wider(modulation))
        assert torch.equal(z, before)
    size = 100.0 if modulated else 1.0
    close(mine.peak.clamp_min(-1e30), exact.peak.clamp_min(-1e30), size)
    got, want = mine.lse(), exact.lse()
    assert not got.isnan().any()
    close(got.clamp_min(-1e30), want.clamp_min(-1e30), size)
    if total:
        parts = torch.isfinite(exact.total)
        assert torch.equal(torch.isfinite(mine.total), parts)
        close(mine.total[parts], exact.total[parts], 1e3 * shape[1] ** 0.5)
    else:
        assert mine.total is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_shares_of_two_chunks(shape, modulated, dtype):
    _, _, modulation = draw(*shape, modulated)
    exact = mine = None
    for _ in range(2):
        z, column, _ = draw(*shape, modulated)
        inverse = 0.5 + torch.rand(shape[1], device=DEVICE)
        if mine is None:
            mine, exact = RowSums.empty(z, False), RowSums.empty(z.double(), False)
        wide, wide_inverse = z.double(), inverse.double()
        shrink = chunk_softmax.add_shares(
            exact, wide, column, wider(modulation), wide, inverse=wide_inverse
        )
        out = z if dtype == z.dtype else torch.full_like(z, torch.nan, dtype=dtype)
        got = triton_softmax.add_shares(mine, z, column, modulation, out, inverse=inverse)
        error = 1e-4 if dtype == torch.float32 else (2**-8 if DEVICE == "cuda" else 2**-7)
        torch.testing.assert_close(got.double(), shrink, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(out.double(), wide, rtol=error, atol=1e-4)
    close(mine.lse().clamp_min(-1e30), exact.lse().clamp_min(-1e30), 100.0)


# The interpreter warns of -inf * 0, which the kernel makes and does not select.
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("n", [5, 1500])
def test_rows_without_other_classes_have_no_sum_and_no_nan(n):
    z = torch.randn(3, n, device=DEVICE)
    z[0, 1:] = -torch.inf
    column = torch.tensor([0, 1, 2], device=DEVICE)
    infinite = torch.full((3,), torch.inf, device=DEVICE)
    # The first row holds the true class alone, the second is filtered; the third is as it was.
    limit = torch.tensor([torch.inf, -100.0, torch.inf], device=DEVICE)
    modulation = LogitModulation(
        infinite, torch.ones(3, device=DEVICE), torch.zeros(3, device=DEVICE), limit
    )
    sums = RowSums.empty(z, False)
    for _ in range(2):
        triton_softmax.add_chunk(sums, z, column, modulation)
    others = torch.cat([z[2, :2], z[2, 3:]]).double().repeat(2)
    assert sums.lse()[:2].tolist() == [-torch.inf] * 2
    close(sums.lse()[2], others.logsumexp(0))
    lse = sums.lse().clamp_min(torch.finfo(torch.float32).min)
    d_true, d_lse = torch.randn(2, 3, device=DEVICE)
    out = torch.empty_like(z)
    triton_softmax.logit_gradient(z, lse, d_lse, None, d_true, column, modulation, out)
    expected = torch.zeros(2, n, device=DEVICE)
    expected[0, 0], expected[1, 1] = d_true[:2]
    assert torch.equal(out[:2], expected)


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("shape", [(1, 1500), (37, 130)])
def test_several_true_classes(shape, modulated):
    rows, n = shape
    z, _, modulation = draw(rows, n, modulated)
    column = torch.stack([torch.randperm(n + 2, device=DEVICE)[:3] - 1 for _ in range(rows)])
    column[0] = torch.tensor([n - 1, 0, -1])
    wide, sums, exact = z.double(), RowSums.empty(z, True), RowSums.empty(z.double(), True)
    triton_softmax.add_chunk(sums, z, column, modulation)
    chunk_softmax.add_chunk(exact, wide.clone(), column, wider(modulation))
    close(sums.lse(), exact.lse(), 100.0)
    parts = torch.isfinite(exact.total)
    close(sums.total[parts], exact.total[parts], 1e3 * n**0.5)
    lse, (d_lse, d_total) = exact.lse(), torch.randn(2, rows, device=DEVICE)
    d_true, along = torch.randn(rows, 3, device=DEVICE), torch.empty(n, device=DEVICE)
    expected = chunk_softmax.logit_gradient(
        wide, lse, d_lse.double(), d_total.double(), d_true.double(), column, wider(modulation),
        torch.empty_like(wide),
    )  # fmt: skip
    got = triton_softmax.logit_gradient(
        z, lse.float(), d_lse, d_total, d_true, column, modulation, torch.empty_like(z), along=along
    )
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-4)
    for number in range(3):
        inside = (column[:, number] >= 0) & (column[:, number] < n)
        assert torch.equal(got[inside, column[inside, number]], d_true[inside, number])
    share, wide_share = torch.empty_like(z), z.double()
    triton_softmax.add_shares(RowSums.empty(z, False), z, column, modulation, share)
    chunk_softmax.add_shares(
        RowSums.empty(wide_share, False), wide_share, column, wider(modulation), wide_share
    )
    torch.testing.assert_close(share.double(), wide_share, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("factors", [False, True])
@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradient(shape, modulated, factors, dtype):
    z, column, modulation = draw(*shape, modulated)
    rows, n = shape
    inverse = 0.5 + torch.rand(n, device=DEVICE) if factors else None
    logits = z.double() if inverse is None else z.double() * inverse.double()
    sums = RowSums.empty(logits, False)
    chunk_softmax.add_chunk(sums, logits.clone(), column, wider(modulation))
    lse = sums.lse().clamp_min(torch.finfo(torch.float32).min).float()
    d_lse, d_total, d_true = torch.randn(3, rows, device=DEVICE)
    d_total = d_total if factors else None
    exact = chunk_softmax.logit_gradient(
        z.double(), lse.double(), d_lse.double(), None if d_total is None else d_total.double(),
        d_true.double(), column, wider(modulation), torch.empty_like(logits),
        inverse=None if inverse is None else inverse.double(),
        along=(along := torch.empty(n, dtype=torch.float64, device=DEVICE)),
    )  # fmt: skip
    before = z.clone()
    out = torch.full((rows, n), torch.nan, dtype=dtype, device=DEVICE)
    mine = torch.full((n,), torch.nan, device=DEVICE)
    got = triton_softmax.logit_gradient(
        z, lse, d_lse, d_total, d_true, column, modulation, out, inverse=inverse, along=mine
    )
    assert got is out
    assert torch.equal(z, before)
    # exp of a number of some 100 has an error of 100 roundings.
    # In bfloat16 the device rounds to nearest, and the interpreter cuts off.
    error = 1e-4 if dtype == torch.float32 else (2**-8 if DEVICE == "cuda" else 2**-7)
    torch.testing.assert_close(out.double(), exact, rtol=error, atol=1e-4)
    scale = (exact.abs() * logits.abs()).sum(0).clamp_min(1.0)
    assert ((mine - along).abs() <= 1e-4 * scale).all()


def test_the_same_inputs_give_the_same_bits():
    z, column, _ = draw(20, 1100, False)
    lse, d_lse, d_true = torch.randn(3, 20, device=DEVICE) + 80
    seen = []
    for _ in range(2):
        sums = RowSums.empty(z, False)
        triton_softmax.add_chunk(sums, z, column, None)
        out, along = torch.empty_like(z), torch.empty(1100, device=DEVICE)
        triton_softmax.logit_gradient(z, lse, d_lse, None, d_true, column, None, out, along=along)
        seen.append([sums.peak, sums.mass, out, along])
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


def test_an_empty_chunk_changes_nothing():
    sums = RowSums.empty(torch.empty(2, device=DEVICE), False)
    column = torch.zeros(2, dtype=torch.int64, device=DEVICE)
    triton_softmax.add_chunk(sums, torch.empty(2, 0, device=DEVICE), column, None)
    assert sums.mass.tolist() == [0, 0]
    along, none = torch.ones(3, device=DEVICE), torch.empty(0, device=DEVICE)
    block = torch.empty(0, 3, device=DEVICE)
    triton_softmax.logit_gradient(
        block, none, none, None, none, column[:0], None, block.clone(), along=along
    )
    assert along.tolist() == [0, 0, 0]


def test_other_dtypes_and_layouts_are_refused():
    sums = RowSums.empty(torch.empty(2, device=DEVICE), False)
    column = torch.zeros(2, dtype=torch.int64, device=DEVICE)
    with pytest.raises(TypeError, match="float64"):
        triton_softmax.add_chunk(
            sums, torch.zeros(2, 3, dtype=torch.float64, device=DEVICE), column, None
        )
    with pytest.raises(TypeError, match="contiguous"):
        triton_softmax.add_chunk(sums, torch.zeros(3, 2, device=DEVICE).t(), column, None)
