"""The table of classes that fit, against arithmetic written out again and against real tensors."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from lookalike.losses import create_loss
from lookalike.losses.class_weights import HeadOptions
from lookalike.losses.head import Head
from lookalike.losses.head_update import UpdateRule

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_capacity", DOCS / "make_capacity.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_capacity"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def shown() -> dict[tuple[str, ...], list[float]]:
    """The page's rows: head, numbers, optimizer, rate -> millions of classes."""
    text = (DOCS / "heads.md").read_text("utf-8")
    table = text.split("docs/make_capacity.py -->")[1].split("<!-- end of capacity")[0]
    rows = [re.split(r"\s*\|\s*", line)[1:-1] for line in table.strip().splitlines()[2:]]
    return {tuple(row[:4]): [float(cell) for cell in row[5:]] for row in rows}


def test_the_table_of_capacities_is_what_the_script_makes(script):
    text = (DOCS / "heads.md").read_text("utf-8")
    assert text == script.page(text), "run: python docs/make_capacity.py"


def test_check_notices_a_page_that_is_out_of_date(tmp_path):
    copy = tmp_path / "make_capacity.py"
    copy.write_text((DOCS / "make_capacity.py").read_text("utf-8"), "utf-8")
    text = (DOCS / "heads.md").read_text("utf-8")
    page = tmp_path / "heads.md"
    for content, code in [(text, 0), (text.replace("| 80 GB |", "| 81 GB |"), 1)]:
        page.write_text(content, "utf-8")
        assert subprocess.run([sys.executable, copy, "--check"]).returncode == code
    assert subprocess.run([sys.executable, copy]).returncode == 0
    assert page.read_text("utf-8") == text


@pytest.mark.parametrize(
    ("row", "matrices", "size", "rest"),
    [
        # weight + gradient + momentum [+ second moment], and 2 x 1024 fp32 logits
        (("PartialFC", "fp32", "sgd", "1"), 3, 4, 8192),
        (("PartialFC", "fp32", "sgd", "0.1"), 3, 4, 819.2),
        (("PartialFC", "fp32", "adamw", "1"), 4, 4, 8192),
        # the same, and the length of the weight
        (("ours", "fp32", "sgd", "1"), 3, 4, 4),
        (("ours", "fp32", "adamw", "1"), 4, 4, 4),
        # no gradient
        (("ours, fused update", "fp32", "sgd", "1"), 2, 4, 4),
        (("ours, fused update", "fp32", "sgd", "0.1"), 2, 4, 4.4),
        (("ours, fused update", "fp32", "adamw", "1"), 3, 4, 4),
        (("ours, fused update", "bf16", "sgd", "1"), 2, 2, 4),
        (("ours, fused update", "bf16", "adamw", "1"), 3, 2, 4),
    ],
)
def test_the_numbers_follow_from_the_formula(row, matrices, size, rest):
    fixed = 0.5e9 if row[0].startswith("ours") else 0
    for memory, millions in zip((16, 24, 40, 80), shown()[row], strict=True):
        needed = [(millions + more) * 1e6 * (512 * size * matrices + rest) for more in (0, 0.1)]
        assert needed[0] <= memory * 1e9 - fixed < needed[1] * (1 + 1e-9)


def test_every_row_of_the_page_was_checked_above():
    marks = test_the_numbers_follow_from_the_formula.pytestmark
    assert {case[0] for case in marks[0].args[1]} == set(shown())


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_a_real_head_holds_what_the_formula_says(script, fused, name, dtype, rate):
    if not fused and (dtype == torch.bfloat16 or rate < 1):
        with pytest.raises(ValueError, match="update"):
            HeadOptions(dtype=dtype, sample_rate=rate)
        assert not any(
            row.head == "ours" and not row.fused and (row.itemsize == 2 or row.rate < 1)
            for row in script.ROWS
        )
        return
    classes, dim = 64, script.DIM
    rule = UpdateRule(name)
    options = HeadOptions(dtype=dtype, sample_rate=rate, update=rule if fused else None)
    head = Head(dim, classes, create_loss("arcface"), options)
    embeddings = torch.randn(4, dim, requires_grad=True)
    head.begin()
    head(embeddings, torch.arange(4)).backward()
    head.end()
    held = [head.weight]
    if fused:
        assert head.weight.grad is None
        held += [state for state in head.update.buffers() if len(state.shape or ()) and
                 len(state) == classes]  # fmt: skip
    else:
        kind = torch.optim.SGD if name == "sgd" else torch.optim.AdamW
        optimizer = kind([head.weight], lr=0.1, **({"momentum": 0.9} if name == "sgd" else {}))
        optimizer.step()
        states = optimizer.state[head.weight].values()
        held += [head.weight.grad, *(state for state in states if state.shape == head.weight.shape)]
    held_bytes = sum(tensor.numel() * tensor.element_size() for tensor in held)
    row = script.Row("ours", dtype.itemsize, name, fused, rate)
    lengths = 4 * rate  # of the weights that a step looks at; kept from forward to backward
    assert held_bytes == classes * (row.bytes_per_class - lengths)


def test_a_gpu_of_80_gb_holds_the_ten_million_classes_that_we_promise(script):
    assert script.Row("ours", 4, "sgd", fused=True).classes(80 * 10**9) > 10_000_000
    assert script.Row("PartialFC", 4, "sgd", fused=False).classes(80 * 10**9) < 10_000_000
