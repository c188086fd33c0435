"""Paths of requests: below the roots or refused."""

import pytest

from lookalike.errors import ConfigError
from lookalike.studio.roots import Roots

ATTACKS = [
    "../secret.txt",
    "lists/../../secret.txt",
    "./../secret.txt",
    "..",
    "/etc/passwd",
    "//etc/passwd",
    "/proc/self/environ",
    "~/.ssh/id_rsa",
    "%2e%2e/secret.txt",
    "..%2fsecret.txt",
    "%252e%252e%252fsecret.txt",
    "..\\secret.txt",
    "..%5csecret.txt",
    "train.txt\0.jpg",
    "train.txt\n../secret.txt",
    "file:///etc/passwd",
    "FILE:/etc/passwd",
    "memory://secret",
    "http://127.0.0.1/secret",
    "C:/Windows/win.ini",
    "link.txt",
    "linked/secret.txt",
    "a/" * 3000,
    "a" * 300,
]


@pytest.fixture
def linked(root):
    (root / "link.txt").symlink_to(root.parent / "secret.txt")
    (root / "linked").symlink_to(root.parent)
    return root


@pytest.mark.parametrize("text", ATTACKS)
def test_a_path_out_of_the_roots_is_refused(linked, text):
    with pytest.raises(ConfigError):
        Roots([linked]).resolve(text)


@pytest.mark.parametrize("text", ATTACKS)
def test_no_request_reads_or_lists_it(client, linked, text):
    for path, name in (("/browse", "folder"), ("/watch/run", "run"), ("/watch/report", "run")):
        more = {"field": "data.train"} if path == "/browse" else {}
        answer = client.get(path, params={name: text, **more})
        assert answer.status_code in (400, 404), (path, text)
    for key in ("data.train", "run.output", "model.pretrained", "data.cache", "train.start_from"):
        answer = client.post(
            "/train/start", {"data.train": "train.txt", "run.output": "r"} | {key: text}
        )
        assert answer.status_code == 422, (key, text)
    assert not (linked / ".lookalike-studio").exists()


def test_a_listing_leaves_out_links_that_lead_out(linked):
    (linked / "inner").symlink_to(linked / "train.txt")
    names = [entry.label for entry in Roots([linked]).listing("")]
    assert names == ["inner", "train.txt", "val.txt"]


def test_several_roots_are_named_in_full_but_the_first(root, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    roots = Roots([root, other])
    for path in (root / "train.txt", other / "x"):
        assert roots.resolve(roots.name(path)) == path
    assert roots.name(root / "train.txt") == "train.txt"
    assert roots.place("oss://bucket/list.txt") == "oss://bucket/list.txt"
