"""The finder of private names in tests: what is a reach, and what is none."""

import pytest

from private_names import reached


@pytest.mark.parametrize(
    "text",
    [
        "def test(head):\n    head._sample()",
        "import lookalike\nlookalike.load('m')._sample",
        "from lookalike.losses import head\nhead.a.b[0]._sample = 1",
        "from lookalike.losses.head import _sample",
        "import lookalike._sample.part",
        "monkeypatch.setattr(head, '_sample', None)",
        "for name in ('rows', '_sample'):\n    setattr(head, name, 1)",
        "patch('lookalike.losses.head._sample', None)",
        "run(f'import sys; {first}; from lookalike.losses.head import _sample')",
        "run(f'head = {head}; head._sample()')",
        "f'{head._sample()}'",
        "Head(_sample=None)",
        "from lookalike.losses import head\nclass Double(head.Head):\n    def _sample(self): pass",
        "from lookalike import Head\nclass Double(Head):\n    def go(self): self._sample()",
        "def counted(self):\n    return self._sample()",
        "class Own:\n    def go(self, head): head._sample()",
        "class Own:\n    def go(self): self.head._sample()",
    ],
)
def test_a_reach_is_found(text):
    assert [name for _, name in reached(text, {"_sample"})] == ["_sample"]


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ntorch.ops._sample(torch._sample)",
        "from torch.utils import data\ndata.part(1)._sample",
        "class Own:\n    def _sample(self): return self._sample",
        "from torch import nn\nclass Own(nn.Module):\n    def go(self): return self._sample",
        "def _sample(): pass\n_sample()",
        "head.__sample__, head.sample, head._other",
        "f'{name}_sample'",
        "'the_sample and _sample in a sentence'",
    ],
)
def test_what_is_not_of_the_program_is_no_reach(text):
    assert reached(text, {"_sample"}) == []
