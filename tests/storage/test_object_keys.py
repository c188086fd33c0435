"""Keys of object storage as they are, and relative paths of lists as on a disk."""

import fsspec
import pytest

from lookalike import storage
from lookalike.data.inputs import read_places
from lookalike.data.readers import read_records
from lookalike.errors import DataError, StorageError
from lookalike.storage import retry
from lookalike.storage.fsspec_client import FsspecClient

SCHEMES = ["s3", "oss"]
KEYS = [
    "a//b.jpg", "//b.jpg", "x://y.jpg", "a\tb.jpg", "a/../b.jpg", "../b.jpg", "./b.jpg",
    "a/./b.jpg", "a#b.jpg", "#b.jpg", "a?b.jpg", "?b.jpg", "a?b=c&d.jpg", "a%20b.jpg", "a%b.jpg",
    "a+b.jpg", "a b.jpg", "ä€.jpg", "a::b.jpg", "a[1]*.jpg", "a\\b.jpg", "a@b.jpg", "~a.jpg",
    "a?endpoint.jpg", "a?sig.jpg", "token=1/a.jpg",
]  # fmt: skip


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setitem(retry.FIRST_PAUSE, True, 0.001)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_keys_are_written_read_listed_and_removed_as_they_are(bucket, scheme, tmp_path):
    folder, bodies = f"{scheme}://shop/d", {key: key.encode() * 9 for key in KEYS}
    for key, body in bodies.items():
        storage.write_bytes(f"{folder}/{key}", body)
    assert storage.sizes_below(folder) == {key: len(body) for key, body in bodies.items()}
    assert storage.files_below(folder) == sorted(KEYS)
    for key, body in bodies.items():
        uri = storage.join(folder, key)
        assert uri == f"{folder}/{key}"
        assert storage.read_bytes(uri) == body, key
        assert storage.read_bytes(uri, part=(1, 3)) == body[1:4], key
        assert storage.exists(uri)
        assert storage.version_of(uri)
        with storage.opened(uri) as stream:
            stream.seek(-4, 2)
            assert stream.read() == body[-4:]
        storage.fetch_file(uri, tmp_path / "here")
        assert (tmp_path / "here").read_bytes() == body
        assert storage.public(uri) == uri
        with pytest.raises(StorageError) as refused:
            storage.read_bytes(f"{uri}.none")
        assert str(refused.value) == f"{uri}.none: no such file or directory"
        storage.remove_file(uri)
        assert not storage.exists(uri), key
    assert storage.sizes_below(folder) == {}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("key", ["?b.jpg", "?..", "?a/../b", " b.jpg", "#", "//b"])
def test_the_first_character_of_a_key_has_no_meaning(bucket, scheme, key):
    uri = f"{scheme}://shop/{key}"
    storage.write_bytes(uri, b"x")
    assert storage.read_bytes(uri) == b"x"
    assert storage.exists(uri)
    storage.remove_file(uri)
    assert not storage.exists(uri)


@pytest.mark.parametrize("key", [".", ".."])
def test_a_key_that_would_become_its_bucket_is_refused(bucket, key):
    seen = []
    bucket.plan = lambda method, path, count: seen.append((method, path))
    for act in (storage.remove_file, storage.exists, lambda uri: storage.write_bytes(uri, b"x")):
        with pytest.raises(StorageError, match="cannot take the key"):
            act(f"oss://shop/{key}")
    assert seen == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_folder_is_its_keys_up_to_the_slash(bucket, scheme):
    for key in ("a/1", "a//2", "a/b/3", "ab/4", "/5"):
        storage.write_bytes(f"{scheme}://shop/{key}", b"x")
    place = f"{scheme}://shop"
    assert storage.files_below(f"{place}/a") == ["/2", "1", "b/3"]
    assert storage.files_below(f"{place}/a/") == ["/2", "1", "b/3"]
    assert storage.files_below(f"{place}/a//") == ["2"]
    assert storage.files_below(place) == ["/5", "a//2", "a/1", "a/b/3", "ab/4"]
    for folder in ("/a", "/a//", ""):
        for name in storage.files_below(place + folder):
            assert storage.read_bytes(storage.join(place + folder, name)) == b"x"


def test_oss_signs_the_requested_key(bucket):
    """The vendor's client signs the key and sends it percent-encoded: both are of the same key."""
    seen = []
    bucket.plan = lambda method, path, count: seen.append(path)
    for key in ("a?b#c%41+d e", "a/../b", "a//b"):
        with pytest.raises(StorageError):
            storage.read_bytes(f"oss://shop/{key}")
    assert seen == ["/shop/a?b#c%41+d e", "/shop/a/../b", "/shop/a//b"]


@pytest.mark.parametrize(
    ("base", "path", "found"),
    [
        ("s3://b/lists/x/train.txt", "../img/a.jpg", "s3://b/lists/img/a.jpg"),
        ("s3://b/lists/train.txt", "./a.jpg", "s3://b/lists/a.jpg"),
        ("s3://b/lists/train.txt", "../a.jpg", "s3://b/a.jpg"),
        ("gs://b/l/train.txt", "x/./y/../a.jpg", "gs://b/l/x/a.jpg"),
        ("oss://b/l/train.txt?endpoint=e.com", "../a.jpg", "oss://b/a.jpg?endpoint=e.com"),
        ("oss://b/l/train.txt?endpoint=e.com", "a.jpg", "oss://b/l/a.jpg?endpoint=e.com"),
        ("s3://b/l?x/train.txt", "../a#?.jpg", "s3://b/a#?.jpg"),
        ("s3://b/l/train.txt", "a//b.jpg", "s3://b/l/a//b.jpg"),
        ("s3://b/l/train.txt", "..a/b...jpg", "s3://b/l/..a/b...jpg"),
        ("s3://b/l/train.txt", "s3://b/l/../a.jpg", "s3://b/l/../a.jpg"),
        ("s3://b/l/train.txt", "/here/../a.jpg", "/here/../a.jpg"),
        ("http://h/l/train.txt?sig=1", "../a%27.jpg", "http://h/a%27.jpg?sig=1"),
        ("http://h/l/train.txt?sig=1", "../a.jpg?w=3", "http://h/a.jpg?w=3&sig=1"),
        ("http://h/l/train.txt", "./a#1.jpg", "http://h/l/a%231.jpg"),
        ("lists/train.txt", "../a.jpg", "lists/../a.jpg"),
        ("train.txt", "~a.jpg", "./~a.jpg"),
    ],
)
def test_relative_paths_of_a_list(base, path, found):
    assert storage.resolve(path, base) == found
    assert storage.resolver(base)(path) == found


@pytest.mark.parametrize("scheme", ["s3", "oss", "gs", "http", "memory"])
def test_a_relative_path_never_leads_out_of_the_bucket(scheme):
    for path in ("../../a.jpg", "x/../../../a.jpg"):
        with pytest.raises(StorageError, match=rf"^'{path}' leads out of {scheme}://b: too many"):
            storage.resolver(f"{scheme}://b/l/train.txt")(path)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", "../img/a.jpg 1\n./b.jpg 2\nx\ty//c.jpg 3\n"),
        ("list.csv", "path,label\n../img/a.jpg,1\n./b.jpg,2\nx\ty//c.jpg,3\n"),
    ],
)
def test_lists_in_object_storage(bucket, scheme, name, text):
    for key in ("img/a.jpg", "lists/b.jpg", "lists/x\ty//c.jpg"):
        storage.write_bytes(f"{scheme}://shop/{key}", key.encode())
    uri = f"{scheme}://shop/lists/{name}"
    storage.write_bytes(uri, text.encode())
    read = [storage.read_bytes(record.uri) for record in read_records(uri)]
    assert read == [b"img/a.jpg", b"lists/b.jpg", b"lists/x\ty//c.jpg"]
    storage.write_bytes(uri, text.replace("./b.jpg", "../../b.jpg").encode())
    line = 3 if name.endswith("csv") else 2
    with pytest.raises(DataError, match=rf"^{uri}:{line}: '\.\./\.\./b\.jpg' leads out of"):
        read_records(uri)


def test_places_with_marks_in_their_names(bucket):
    for key in ("a?b.jpg", "c#d.jpg", "e[1].jpg", "l?.txt"):
        storage.write_bytes(f"s3://shop/{key}", b"e[1].jpg 1\n")
    places = [f"s3://shop/{key}" for key in ("a?b.jpg", "c#d.jpg", "e[1].jpg")]
    assert [record.uri for record in read_places(places)] == places
    assert [record.uri for record in read_places(["s3://shop/l?.txt"])] == places[2:]


@pytest.mark.parametrize(
    "uri",
    ["abfs://c/a.jpg", "az://c/a.jpg", "gdrive://a.jpg", "hdfs://h/a.jpg", "ftp://h/a.jpg",
     "sftp://h/a", "nonsense://x"],
)  # fmt: skip
def test_unsupported_schemes_are_refused_with_the_supported_ones(uri):
    for act in (storage.read_bytes, storage.exists, storage.is_folder, storage.files_below,
                storage.sizes_below, lambda uri: storage.write_bytes(uri, b"x"),
                lambda uri: storage.opened(uri).__enter__()):  # fmt: skip
        with pytest.raises(StorageError) as refused:
            act(uri)
        scheme = uri.partition("://")[0]
        assert str(refused.value).startswith(
            f"{uri}: {scheme}:// is not supported; supported are paths of this machine, oss://, "
        )
        assert "\n" not in str(refused.value)


class Failing(fsspec.AbstractFileSystem):
    protocol = "failing"
    cachable = False
    error, calls = None, 0

    def cat_file(self, path, start=None, end=None, **kwargs):
        type(self).calls += 1
        raise self.error

    info = cat_file


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TypeError("hush"), r"the client of this storage fails \(TypeError in test_object_keys\)"),
        (AttributeError("hush"), r"the client of this storage fails \(AttributeError in"),
        (KeyError("hush"), r"the client of this storage fails \(KeyError in"),
        (NotImplementedError("hush"), r"the client of this storage fails \(NotImplementedError in"),
        (PermissionError("hush"), "permission denied$"),
        (ValueError("hush"), "not a path or URL that can be opened$"),
        (type("NoCredentialsError", (Exception,), {})("hush"), "no credentials; set them in"),
    ],
)
def test_permanent_errors_are_raised_at_once_in_words(error, words, monkeypatch):
    fsspec.register_implementation("failing", Failing, clobber=True)
    monkeypatch.setattr(Failing, "error", error)
    monkeypatch.setattr(Failing, "calls", 0)
    for act in (storage.read_bytes, storage.version_of):
        with pytest.raises(StorageError, match=f"^failing://b/k: {words}") as refused:
            act("failing://b/k")
        assert "hush" not in str(refused.value)
    assert Failing.calls == 2


@pytest.mark.parametrize("status", [400, 401, 403, 405, 410])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_refusals_are_not_retried(bucket, scheme, status, monkeypatch):
    bucket.plan = lambda method, path, count: status
    bucket.counts.clear()
    for act in (storage.read_bytes, storage.sizes_below, lambda u: storage.write_bytes(u, b"x")):
        with pytest.raises(StorageError) as refused:
            act(f"{scheme}://shop/x")
        assert "\n" not in str(refused.value)
        assert "error" not in str(refused.value).lower()
    assert max(bucket.counts.values()) == 1


def test_programs_may_register_filesystems():
    assert FsspecClient().filesystem_of("memory://shop/a")[1] == "/shop/a"
