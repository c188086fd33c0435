"""How the torchruns of a job on several machines meet."""

import re
import shlex
from pathlib import Path

import pytest
from torch.distributed.run import parse_args

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize(
    "name", ["dlc-distributed.json", "kubernetes-distributed.yaml", "slurm-two-machines.sh"]
)
def test_a_lost_machine_ends_all_torchruns_and_the_engine_restarts_them(name: str) -> None:
    """Elastic mode, which restarts by itself, would need TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1."""
    text = (GOLDEN / name).read_text().replace('\\"', '"')
    [options] = re.findall(r"-m torch\.distributed\.run (.*) -m lookalike", text)
    words = [re.sub(r"\$\w+", "2", word) for word in shlex.split(options)]
    found = parse_args([*words, "program"])
    assert (found.rdzv_backend, found.nnodes, found.max_restarts) == ("static", "2", 0)
