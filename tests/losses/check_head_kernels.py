"""The head with Triton's kernels against the losses as their papers write them, in float64."""

import pytest
import torch
from losses_reference import (
    PLAIN,
    draw,
    head_loss_and_gradients,
    head_with,
    loss_and_gradients,
)

from lookalike.errors import ConfigError
from lookalike.losses import (
    chunk_softmax,
    create_loss,
    kernels,
    triton_softmax,
    triton_update,
)
from lookalike.losses.head_update import UpdateRule

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def _fresh_numbers():
    print(f"torch.manual_seed({torch.seed()})")


@pytest.fixture
def calls(monkeypatch):
    """Calls of each kernel, by name."""
    count = {}

    def counted(name, function):
        def call(*args, **more):
            count[name] = count.get(name, 0) + 1
            return function(*args, **more)

        return call

    for module, name in [
        (triton_softmax, "add_chunk"), (triton_softmax, "logit_gradient"),
        (triton_update, "sgd_rows"),
    ]:  # fmt: skip
        monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
    return count


def near(mine, reference):
    for a, b in zip(mine, reference, strict=True):
        assert (a.cpu() - b).norm() <= 1e-5 * b.norm()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", PLAIN)
def test_loss_and_gradients(calls, name, smoothing):
    embeddings, weight, classes = draw(5, 16, 70, torch.float32)
    margin = create_loss(name)
    head = head_with(margin, weight, chunk=40, label_smoothing=smoothing).to(DEVICE)
    mine = head_loss_and_gradients(head, embeddings.to(DEVICE), classes.to(DEVICE))
    exact = loss_and_gradients(margin, embeddings.double(), weight.double(), classes, smoothing)
    near(mine, exact)
    assert calls == {"add_chunk": 2, "logit_gradient": 2}


def test_products_in_bfloat16():
    embeddings, weight, classes = draw(5, 16, 70, torch.float32)
    margin = create_loss("arcface")
    results = []
    for dtype in (torch.bfloat16, None):
        head = head_with(margin, weight, chunk=40, precision=dtype).to(DEVICE)
        results.append(head_loss_and_gradients(head, embeddings.to(DEVICE), classes.to(DEVICE)))
    for narrow, wide in zip(*results, strict=True):
        assert 0 < (narrow - wide).norm() <= 4e-2 * wide.norm()


def test_several_centres():
    embeddings, weight, classes = draw(5, 16, 60, torch.float32)
    head = head_with(create_loss("arcface"), weight, centres=3, chunk=15).to(DEVICE)
    classes = classes % 20
    mine = head_loss_and_gradients(head, embeddings.to(DEVICE), classes.to(DEVICE))
    wide = head_with(create_loss("arcface"), weight.double(), centres=3, chunk=15)
    near(mine, head_loss_and_gradients(wide, embeddings.double(), classes))


def test_update_in_the_backward_pass(calls):
    embeddings, weight, classes = draw(5, 16, 70, torch.float32)
    margin = create_loss("arcface")
    rule = UpdateRule("sgd", momentum=0.9)
    head = head_with(margin, weight, chunk=40, update=rule).to(DEVICE)
    head.begin()
    head.update.lr = 0.5
    leaf = embeddings.to(DEVICE).requires_grad_()
    head(leaf, classes.to(DEVICE)).backward()
    head.end()
    _, d_embeddings, d_weight = loss_and_gradients(
        margin, embeddings.double(), weight.double(), classes
    )
    near([leaf.grad], [d_embeddings])
    near([(weight - head.weight.cpu()).double()], [0.5 * d_weight])
    assert calls["sgd_rows"] == 2


def test_double_precision_goes_to_torch(calls):
    embeddings, weight, classes = draw(3, 4, 6)
    head = head_with(create_loss("arcface"), weight).to(DEVICE)
    head_loss_and_gradients(head, embeddings.to(DEVICE), classes.to(DEVICE))
    assert calls == {}


def test_the_environment_and_the_device_choose_the_kernels(monkeypatch):
    z = torch.zeros(2, 2, device=DEVICE)
    assert kernels.softmax_kernels(z) is triton_softmax
    assert kernels.softmax_kernels(z.double()) is chunk_softmax
    assert kernels.update_kernels(DEVICE) is triton_update
    monkeypatch.setenv("LOOKALIKE_TRITON", "0")
    assert kernels.softmax_kernels(z) is chunk_softmax
    assert kernels.update_kernels(DEVICE) is None
    monkeypatch.delenv("LOOKALIKE_TRITON")
    assert kernels.softmax_kernels(z.cpu()) is chunk_softmax
    monkeypatch.setenv("LOOKALIKE_TRITON", "yes")
    with pytest.raises(ConfigError, match="LOOKALIKE_TRITON is 'yes'"):
        kernels.softmax_kernels(z)
    monkeypatch.setenv("LOOKALIKE_TRITON", "1")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ConfigError, match="does not run on cpu"):
        kernels.softmax_kernels(z.cpu())


def test_kernels_are_tested_on_a_device_before_use(monkeypatch, caplog):
    monkeypatch.delenv("LOOKALIKE_TRITON")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    # The kernels run here, whatever the device is called.
    monkeypatch.setattr(kernels, "fault", lambda device, was=kernels.fault: was(DEVICE))
    kernels.passes_test.cache_clear()
    assert kernels.uses_triton(torch.device("cuda", 0))
    assert not caplog.records

    monkeypatch.setattr(triton_softmax, "logit_gradient", lambda *a, out=None, **k: None)
    kernels.passes_test.cache_clear()
    assert not kernels.uses_triton(torch.device("cuda", 0))
    assert "do not work on cuda:0" in caplog.text
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    kernels.passes_test.cache_clear()
    assert not kernels.uses_triton(torch.device("cuda", 0))
    kernels.passes_test.cache_clear()


@pytest.mark.parametrize("name", ["sgd_rows", "adamw_rows"])
def test_a_slightly_wrong_kernel_fails_the_test(monkeypatch, name):
    was = getattr(triton_update, name)

    def wrong(weight, *arguments, **more):
        was(weight, *arguments, **{**more, "lr": more["lr"] * 1.1})

    assert kernels.fault(DEVICE) is None
    monkeypatch.setattr(triton_update, name, wrong)
    assert "differs from PyTorch's" in kernels.fault(DEVICE)
    monkeypatch.setattr(triton_update, name, lambda *a, **k: 1 / 0)
    assert kernels.fault(DEVICE) == "ZeroDivisionError: division by zero"
