"""Real clients of S3 and OSS against a server that has bad moments."""

import os

import pytest

from lookalike import storage
from lookalike.errors import CredentialsError, StorageError
from lookalike.storage import listing, oss, retry

SCHEMES = ["s3", "oss"]


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setitem(retry._FIRST_PAUSE, True, 0.001)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_bytes_go_there_and_back(bucket, scheme, tmp_path):
    data = os.urandom(100_000)
    uri = f"{scheme}://shop/some dir/ä+&%41.bin"
    storage.write_bytes(uri, data)
    assert storage.read_bytes(uri) == data
    assert storage.read_bytes(uri, part=(500, 1000)) == data[500:1500]
    assert storage.exists(uri)
    assert not storage.exists(f"{scheme}://shop/none")
    assert storage.is_folder(f"{scheme}://shop/some dir")
    assert storage.sizes_below(f"{scheme}://shop/some dir") == {"ä+&%41.bin": 100_000}
    assert storage.files_below(f"{scheme}://shop/some dir") == ["ä+&%41.bin"]
    with storage.opened(uri) as stream:
        stream.seek(99_000)
        assert stream.read() == data[99_000:]
    storage.fetch_file(uri, tmp_path / "here")
    assert (tmp_path / "here").read_bytes() == data
    storage.remove_file(uri)
    with pytest.raises(StorageError, match=r"no such file or directory$"):
        storage.read_bytes(uri)
    storage.write_bytes(uri, b"short")
    with pytest.raises(StorageError, match="ends at"):
        storage.read_bytes(uri, part=(0, 10))


@pytest.mark.parametrize("fault", [500, 503, "reset", "cut", "slow"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_bad_moments_pass(bucket, scheme, fault):
    data = os.urandom(200_000)
    storage.write_bytes(f"{scheme}://shop/x", data)
    bucket.counts.clear()
    bucket.plan = lambda method, path, count: fault if method == "GET" and count <= 2 else None
    assert storage.read_bytes(f"{scheme}://shop/x") == data
    assert bucket.counts["GET", "/shop/x"] == (1 if fault == "slow" else 3)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_bad_hour_is_told(bucket, scheme):
    storage.write_bytes(f"{scheme}://shop/x", b"1")
    bucket.plan = lambda *_: 503
    with pytest.raises(StorageError, match=f"^{scheme}://shop/x: "):
        storage.read_bytes(f"{scheme}://shop/x")


@pytest.mark.parametrize("fault", [500, "reset", "cut"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_listing_is_whole_or_an_error(bucket, scheme, fault):
    names = {"a/1", "a/b/2", "c/3"}
    for name in names:
        storage.write_bytes(f"{scheme}://shop/top/{name}", b"x")
    seen = []

    def second(method, path, count):
        seen.append(path)
        return fault if len(seen) % 11 == 2 else None

    bucket.plan = second
    for _ in range(4):
        assert set(storage.sizes_below(f"{scheme}://shop/top")) == names
        assert storage.is_folder(f"{scheme}://shop/top/a")
        assert storage.exists(f"{scheme}://shop/top/a/1")
    assert storage.sizes_below(f"{scheme}://shop/none") == {}
    assert not storage.exists(f"{scheme}://shop/to")


def test_a_listing_of_oss_goes_on_after_its_first_page(bucket, monkeypatch):
    for name in "abcde":
        storage.write_bytes(f"oss://shop/top/{name}", b"x")
    monkeypatch.setattr(listing._oss_objects, "__defaults__", (2,))
    assert set(storage.sizes_below("oss://shop/top")) == set("abcde")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_expired_tokens_are_read_anew_once_and_then_told(bucket, scheme):
    storage.write_bytes(f"{scheme}://shop/x", b"1")
    bucket.counts.clear()
    bucket.plan = lambda method, path, count: "expired" if count == 1 else None
    assert storage.read_bytes(f"{scheme}://shop/x") == b"1"
    bucket.plan = lambda *_: "expired"
    with pytest.raises(CredentialsError, match=r"refuses the credentials \(ExpiredToken\)") as told:
        storage.read_bytes(f"{scheme}://shop/x")
    assert "hush" not in str(told.value)
    assert bucket.counts["GET", "/shop/x"] == 4


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("oss://b.oss-cn-x.aliyuncs.com/a/k", ("https://oss-cn-x.aliyuncs.com", "b", "a/k")),
        ("oss://b/k?endpoint=http://h:1", ("http://h:1", "b", "k")),
        ("oss://b/k", ("https://env.example", "b", "k")),
    ],
)
def test_endpoint(uri, found):
    assert oss.locate(uri, "env.example") == found


def test_no_endpoint_and_ossutils_file(tmp_path, monkeypatch):
    with pytest.raises(StorageError, match="no endpoint is known; set OSS_ENDPOINT"):
        oss.locate("oss://b/k", None)
    for name in (*oss._ID, *oss._SECRET, *oss._TOKEN, "OSS_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "config"
    monkeypatch.setenv("OSS_CONFIG_FILE", str(file))
    assert oss.account() == oss.Account(None, None, None, None)
    file.write_text("[Credentials]\naccessKeyID=i\naccessKeySecret=p%d\nstsToken=t\nendpoint=e\n")
    assert oss.account() == oss.Account("e", "i", "p%d", "t")
    assert "p%d" not in repr(oss.account())
    file.write_text("accessKeySecret=hush\n")
    with pytest.raises(StorageError) as told:
        oss.account()
    assert "hush" not in str(told.value)
