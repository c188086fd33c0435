"""Paths of requests: below the roots or refused."""

import pytest

from lookalike.errors import ConfigError
from lookalike.studio.roots import Roots


def test_a_path_that_is_no_unicode_is_refused(root):
    with pytest.raises(ConfigError, match="control characters"):
        Roots([root]).resolve("\ud800.txt")


def test_a_listing_leaves_out_links_that_lead_out(root):
    (root / "link.txt").symlink_to(root.parent / "secret.txt")
    (root / "linked").symlink_to(root.parent)
    (root / "inner").symlink_to(root / "train.txt")
    names = [entry.label for entry in Roots([root]).listing("")]
    assert names == ["inner", "train.txt", "val.txt"]


def test_several_roots_are_named_in_full_but_the_first(root, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    roots = Roots([root, other])
    for path in (root / "train.txt", other / "x"):
        assert roots.resolve(roots.name(path)) == path
    assert roots.name(root / "train.txt") == "train.txt"
    assert roots.place("oss://bucket/list.txt") == "oss://bucket/list.txt"
