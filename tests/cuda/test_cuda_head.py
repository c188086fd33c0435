"""The class head on the device against the losses as their papers write them, in float64."""

import pytest
import torch
import torch.nn.functional as F
from losses_reference import (
    PLAIN,
    draw,
    head_loss_and_gradients,
    head_with,
    loss_and_gradients,
    row_losses,
)

from lookalike.losses import create_loss
from lookalike.losses.head_update import UpdateRule
from lookalike.losses.kernels import fault, uses_triton

ROWS, DIM, CLASSES = 37, 64, 1100  # no multiples of a kernel's tile
CHUNK = 400


def off(mine, true):
    """The relative error."""
    return float((mine.detach().cpu().double() - true.double()).norm() / true.double().norm())


@pytest.fixture
def batch():
    return draw(ROWS, DIM, CLASSES, torch.float32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", PLAIN)
def test_loss_and_gradients_equal_float64(device, batch, name, smoothing):
    embeddings, weight, classes = batch
    margin = create_loss(name)
    head = head_with(margin, weight, chunk=CHUNK, label_smoothing=smoothing).to(device)
    mine = head_loss_and_gradients(head, embeddings.to(device), classes.to(device))
    exact = loss_and_gradients(margin, embeddings.double(), weight.double(), classes, smoothing)
    assert [off(a, b) <= 2e-5 for a, b in zip(mine, exact, strict=True)] == [True] * 3


@pytest.mark.parametrize("name", ["curricularface", "adaface", "magface"])
def test_losses_with_a_state_or_a_length_equal_the_cpu(device, batch, name):
    embeddings, weight, classes = batch
    margin = create_loss(name)
    results = []
    for where in (torch.device("cpu"), device):
        head = head_with(margin, weight, chunk=CHUNK).to(where)
        results.append(head_loss_and_gradients(head, embeddings.to(where), classes.to(where)))
    for a, b in zip(results[1], results[0], strict=True):
        assert off(a, b) <= 1e-4


def test_products_in_bfloat16(device, batch):
    embeddings, weight, classes = batch
    margin = create_loss("arcface")
    head = head_with(margin, weight, chunk=CHUNK, precision=torch.bfloat16).to(device)
    mine = head_loss_and_gradients(head, embeddings.to(device), classes.to(device))
    exact = loss_and_gradients(margin, embeddings.double(), weight.double(), classes)
    errors = [off(a, b) for a, b in zip(mine, exact, strict=True)]
    assert max(errors) <= 4e-2
    assert max(errors) > 0


def test_default_chunks_of_the_device(device):
    embeddings, weight, classes = draw(8, 16, 5000, torch.float32)
    margin = create_loss("arcface")
    head = head_with(margin, weight).to(device)
    mine = head_loss_and_gradients(head, embeddings.to(device), classes.to(device))
    exact = loss_and_gradients(margin, embeddings.double(), weight.double(), classes)
    for a, b in zip(mine, exact, strict=True):
        assert off(a, b) <= 2e-5


def test_several_centres(device):
    embeddings, weight, classes = draw(ROWS, DIM, 600, torch.float32)
    classes = classes % 200
    results = []
    for where, dtype in ((device, torch.float32), (torch.device("cpu"), torch.float64)):
        head = head_with(create_loss("arcface"), weight.to(dtype), centres=3, chunk=70).to(where)
        given = embeddings.to(where, dtype)
        results.append(head_loss_and_gradients(head, given, classes.to(where)))
    for a, b in zip(*results, strict=True):
        assert off(a, b) <= 2e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_update_in_the_backward_pass_equals_the_optimizer(device, batch, name, dtype):
    embeddings, weight, classes = batch
    lr, decay = 0.05, 0.01
    margin = create_loss("arcface")
    rule = UpdateRule(name, momentum=0.9, weight_decay=decay)
    weight = weight.to(dtype)
    fused = head_with(margin, weight, chunk=CHUNK, update=rule, dtype=dtype).to(device)
    weight = weight.float()
    plain = head_with(margin, weight, chunk=CHUNK).to(device)
    if name == "sgd":
        optimizer = torch.optim.SGD(plain.parameters(), lr, 0.9, weight_decay=decay)
    else:
        optimizer = torch.optim.AdamW(plain.parameters(), lr, (0.9, 0.999), weight_decay=decay)
    fused.update.lr = lr
    for _ in range(3):
        for head in (fused, plain):
            leaf = embeddings.to(device).requires_grad_()
            optimizer.zero_grad()
            head.begin(1 / 256)
            (head(leaf, classes.to(device)) * (256 if head is fused else 1)).backward()
            head.end()
        optimizer.step()
    mine, true = fused.weight.detach().float().cpu(), plain.weight.detach().cpu()
    if dtype == torch.float32:
        assert off(mine - weight, true - weight) <= 1e-3
    else:  # rounded by chance: off by some units in the last place, and by none in the mean
        assert off(mine, true) <= 2e-2
        assert abs(float((mine - true).mean())) <= 0.01 * float((mine - true).abs().mean())


@pytest.mark.parametrize("sharded", [False, True])
def test_a_sampled_step_is_one_over_the_classes_drawn(device, batch, sharded):
    embeddings, weight, classes = batch
    margin = create_loss("arcface")
    rule = UpdateRule("sgd", momentum=0.9)
    head = head_with(margin, weight, chunk=CHUNK, update=rule, sample_rate=0.3, sharded=sharded).to(
        device
    )
    head.update.lr = 0.1
    index = head.sampler.draw(classes.to(device), 0).cpu()
    assert 0.25 < len(index) / CLASSES < 0.4
    own = torch.searchsorted(index, classes)
    leaf = embeddings.to(device).requires_grad_()
    head.begin()
    loss = head(leaf, classes.to(device))
    loss.backward()
    head.end()
    exact = loss_and_gradients(margin, embeddings.double(), weight[index].double(), own)
    assert off(loss, exact[0]) <= 2e-5
    assert off(leaf.grad, exact[1]) <= 2e-5
    change = weight - head.weight.detach().cpu()
    assert off(change[index], 0.1 * exact[2]) <= 1e-3
    change[index] = 0
    assert not change.any()


def test_predicted_classes(device, batch):
    embeddings, weight, _ = batch
    head = head_with(create_loss("arcface"), weight, chunk=CHUNK).to(device)
    true = (F.normalize(embeddings.double()) @ F.normalize(weight.double()).t()).argmax(1)
    assert (head.predict(embeddings.to(device)).cpu() == true).float().mean() > 0.99


def test_absent_rows_and_one_class(device):
    embeddings, weight, classes = draw(5, 16, 1, torch.float32)
    head = head_with(create_loss("arcface"), weight).to(device)
    loss, d_embeddings, d_weight = head_loss_and_gradients(
        head, embeddings.to(device), classes.to(device)
    )
    assert float(loss) == 0
    assert not d_embeddings.any()
    assert not d_weight.any()


def test_the_device_gets_triton_kernels(real_device):
    if torch.cuda.get_device_capability(real_device) < (8, 0):
        pytest.skip("no device that Triton knows")
    pytest.importorskip("triton")
    assert fault(real_device) is None
    assert uses_triton(real_device)


@pytest.mark.parametrize("smoothed", [False, True])
def test_full_size_kernels_equal_plain_torch(real_device, monkeypatch, smoothed):
    device = real_device
    """Many chunks, parts of rows and of columns, as a real batch has them."""
    embeddings, weight, classes = draw(256, 32, 70_000, torch.float32)
    margin = create_loss("arcface")
    more = {"label_smoothing": 0.1} if smoothed else {"filter_above": 0.3}
    results = []
    for wish in (None, "0"):
        if wish is not None:
            monkeypatch.setenv("LOOKALIKE_TRITON", wish)
        head = head_with(margin, weight, **more).to(device)
        results.append(head_loss_and_gradients(head, embeddings.to(device), classes.to(device)))
    for a, b in zip(*results, strict=True):
        assert off(a.cpu(), b.cpu()) <= 1e-4


def test_the_same_inputs_give_the_same_bits(device, batch):
    embeddings, weight, classes = batch
    head = head_with(create_loss("arcface"), weight, chunk=CHUNK).to(device)
    first, second = (
        head_loss_and_gradients(head, embeddings.to(device), classes.to(device)) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_mean_of_rows(device, batch):
    """The head's mean loss is that of the rows, each computed alone on the CPU."""
    embeddings, weight, classes = batch
    margin = create_loss("cosface")
    rows = row_losses(margin, embeddings.double(), weight.double(), classes)
    head = head_with(margin, weight, chunk=CHUNK).to(device)
    assert off(head(embeddings.to(device), classes.to(device)), rows.mean()) <= 2e-5
