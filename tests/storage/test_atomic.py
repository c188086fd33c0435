"""Files and folders that appear whole, and the one cache root."""

import os

import pytest

from lookalike.storage.atomic import partial_path, put_in_place, replacing
from lookalike.storage.cache_folder import cache_entry


@pytest.mark.parametrize("shared", [False, True])
def test_an_error_leaves_the_old_file_and_no_partial_one(tmp_path, shared):
    file = tmp_path / "new/a.json"
    with replacing(file, shared=shared) as partial:
        partial.write_text("old")

    def fail():
        with replacing(file, shared=shared) as partial:
            partial.write_text("half")
            assert file.read_text() == "old"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert {path.name: path.read_text() for path in file.parent.iterdir()} == {"a.json": "old"}


def test_a_partial_file_of_a_killed_writer_is_replaced_and_a_link_not_followed(tmp_path):
    file, outside = tmp_path / "a", tmp_path / "outside"
    outside.write_text("mine")
    partial_path(file).symlink_to(outside)
    with replacing(file) as partial:
        partial.write_text("new")
    assert (file.read_text(), file.is_symlink(), outside.read_text()) == ("new", False, "mine")


def test_a_file_has_the_mode_of_new_files(tmp_path):
    with replacing(tmp_path / "a") as partial:
        partial.write_text("x")
        partial.chmod(0o600)  # as the temporary files of libraries
    (tmp_path / "b").touch()
    assert os.stat(tmp_path / "a").st_mode == os.stat(tmp_path / "b").st_mode


def test_a_finished_folder_replaces_an_old_one(tmp_path):
    folder = tmp_path / "step-1"
    for text in ("old", "new"):
        partial_path(folder).mkdir()
        (partial_path(folder) / text).write_text(text)
        put_in_place(partial_path(folder), folder)
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
    assert [path.name for path in folder.iterdir()] == ["new"]


def test_all_copies_are_below_the_cache_that_the_user_names(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert cache_entry("models", "s3://b/run").parent == tmp_path / "own/models"
