"""What the documentation says of a long list is what `plan` says."""

from pathlib import Path

import lookalike
from lookalike.planning.list_needs import list_needs


def test_needs_of_a_billion_images_are_those_of_the_docs():
    page = Path(lookalike.__file__).parents[2] / "docs" / "plan.md"
    assert list_needs(10**9, 10**8) in page.read_text("utf-8")
