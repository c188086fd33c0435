import pytest
import torch


@pytest.fixture(autouse=True)
def _fresh_numbers():
    """Other random numbers on every run; the seed is shown when a test fails."""
    print(f"torch.manual_seed({torch.seed()})")
