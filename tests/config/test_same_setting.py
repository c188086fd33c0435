"""Settings that name one file or folder in two spellings."""

import os

import pytest

from lookalike.config.same_setting import same_setting, settings_text


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    for name in ("file", "auto", "sub/file"):
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to("file")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("key", ["model.pretrained", "train.recipe", "data.image_root"])
def test_spellings_of_one_file(here, key):
    spellings = ["file", "./file", "sub/../file", "link", f"{here}/file", f"file://{here}/file"]
    for one in spellings:
        assert same_setting(key, one, "file")
        assert same_setting(key, "file", one)
        for other in ("sub/file", f"{here}/sub/file", "none", None, True):
            assert not same_setting(key, one, other)


def test_a_relative_path_may_start_at_another_folder(here, monkeypatch):
    monkeypatch.chdir("sub")
    spellings = ["file", "./file", "link", f"{here}/file", f"file://{here}/file"]
    for one in ("../file", f"{here}/file"):
        assert all(same_setting("data.classes", one, other, str(here)) for other in spellings)
        assert not same_setting("data.classes", one, "sub/file", str(here))
        assert not same_setting("data.classes", one, f"{here}/sub/file")
    nets = ("local-dir:.", f"local-dir:{here}/sub")
    assert all(same_setting("model.backbone", one, "local-dir:sub", str(here)) for one in nets)
    assert same_setting("model.pretrained", "s3://b/x", "S3://b/x", str(here))


def test_what_is_no_place_is_compared_as_it_is(here):
    assert same_setting("loss.name", "arcface", "arcface")
    assert not same_setting("loss.name", "file", "./file")
    assert not same_setting("train.recipe", "auto", "./auto")
    assert not same_setting("data.weights", "file", "./file")  # columns
    assert same_setting("model.pretrained", "gone", "./gone")
    assert not same_setting("model.backbone", "file", "./file")
    assert same_setting("model.backbone", "local-dir:sub", f"local-dir:{os.path.abspath('sub')}")
    assert not same_setting("model.backbone", "local-dir:sub", "sub")
    assert not same_setting("model.pretrained", True, False)
    assert same_setting("model.pretrained", "s3://b/x", "S3://b/x")


def test_the_same_relative_path_in_another_folder(here, monkeypatch):
    monkeypatch.chdir("sub")
    key, began = "model.pretrained", str(here)
    assert same_setting(key, "file", "file", began)  # of the same content, as in a copy
    (here / "sub/file").write_text("other")
    assert not same_setting(key, "file", "file", began)
    texts = settings_text(key, "file", "file", began)
    assert texts == (f"{here}/sub/file", f"{here}/file")
    (here / "file").unlink()  # moved
    assert same_setting(key, "file", "file", began)
