"""Real clients of S3 and OSS against a server that has bad moments."""

import asyncio
import os
from datetime import datetime
from urllib.parse import parse_qsl, urlsplit

import botocore.session
import fsspec
import pytest
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.implementations.memory import MemoryFileSystem

from lookalike import storage
from lookalike.errors import CredentialsError, StorageError
from lookalike.storage import client, client_registry, oss, retry
from lookalike.storage.event_loop import waited

SCHEMES = ["s3", "oss"]


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setitem(retry.FIRST_PAUSE, True, 0.001)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_bytes_round_trip(bucket, scheme, tmp_path):
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
def test_transient_faults_are_retried(bucket, scheme, fault):
    data = os.urandom(200_000)
    storage.write_bytes(f"{scheme}://shop/x", data)
    bucket.counts.clear()
    bucket.plan = lambda method, path, count: fault if method == "GET" and count <= 2 else None
    assert storage.read_bytes(f"{scheme}://shop/x") == data
    assert bucket.counts["GET", "/shop/x"] == (1 if fault == "slow" else 3)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_lasting_outage_is_reported(bucket, scheme):
    storage.write_bytes(f"{scheme}://shop/x", b"1")
    bucket.plan = lambda *_: 503
    with pytest.raises(StorageError, match=f"^{scheme}://shop/x: "):
        storage.read_bytes(f"{scheme}://shop/x")


@pytest.mark.parametrize("fault", [500, "reset", "cut"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_listing_is_complete_or_an_error(bucket, scheme, fault):
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


def test_listing_of_oss_has_all_pages(bucket, monkeypatch):
    for name in "abcde":
        storage.write_bytes(f"oss://shop/top/{name}", b"x")
    monkeypatch.setattr(client, "PAGE", 2)
    assert set(storage.sizes_below("oss://shop/top")) == set("abcde")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_expired_tokens_are_read_anew_once(bucket, scheme):
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
    for name in (*oss.ID_VARIABLES, *oss.SECRET_VARIABLES, *oss.TOKEN_VARIABLES, "OSS_ENDPOINT"):
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


@pytest.mark.parametrize("region", ["us-east-1", "cn-north-1"])
def test_urls_are_signed_as_botocore_signs(monkeypatch, tmp_path, region):
    keys = Credentials("AKIAEXAMPLE", "secret/+key", "token+/=")
    for name, value in {
        "AWS_ACCESS_KEY_ID": keys.access_key, "AWS_SECRET_ACCESS_KEY": keys.secret_key,
        "AWS_SESSION_TOKEN": keys.token, "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_DEFAULT_REGION": region,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    client_registry.client_of("s3://b/k").forget("s3://b/k")
    ours = urlsplit(client_registry.client_of("s3://b/k").url("s3://my.bucket/some dir/ä+&%41.bin"))
    client_registry.client_of("s3://b/k").forget("s3://b/k")
    assert ours.hostname == {
        "us-east-1": "s3.amazonaws.com", "cn-north-1": "s3.cn-north-1.amazonaws.com.cn",
    }[region]  # fmt: skip
    asked = dict(parse_qsl(ours.query))
    then = datetime.strptime(asked["X-Amz-Date"], "%Y%m%dT%H%M%SZ")
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda **_: then)
    request = AWSRequest("GET", ours._replace(query="").geturl())
    S3SigV4QueryAuth(keys, "s3", region, expires=3600).add_auth(request)
    assert dict(parse_qsl(urlsplit(request.url).query)) == asked


def test_anonymous_reads_without_credentials(bucket, monkeypatch):
    storage.write_bytes("s3://shop/some dir/ä+&%41.bin", b"all")
    storage.write_bytes("oss://shop/b", b"all too")
    owner = botocore.session.get_session().create_client("s3")
    for key in ("some dir/ä+&%41.bin", "b"):
        owner.put_object_acl(Bucket="shop", Key=key, ACL="public-read")
    owner.close()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "OSS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/none")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for uri in ("s3://shop/x", "oss://shop/x"):
        client_registry.forget_credentials(uri, client_registry.credentials_number(uri))
    assert storage.read_bytes("s3://shop/some dir/ä+&%41.bin") == b"all"
    assert "?" not in client_registry.client_of("s3://b/k").url("s3://shop/some dir/ä+&%41.bin")
    assert storage.read_bytes("oss://shop/b") == b"all too"


def test_many_refused_requests_read_the_credentials_once(bucket):
    for number in range(20):
        storage.write_bytes(f"oss://shop/{number}", b"1")
    bucket.plan = lambda method, path, count: "expired" if count == 1 else None
    before = client_registry.credentials_number("oss://shop/x")
    bucket.counts.clear()

    async def many():
        await asyncio.gather(*(storage.fetch_bytes(f"oss://shop/{n}") for n in range(20)))

    waited(many())
    assert sum(bucket.counts.values()) == 40
    assert client_registry.credentials_number("oss://shop/x") == before + 1


def test_credentials_of_two_storages_that_expire_together_are_both_read_anew(bucket):
    for scheme in ("oss", "s3"):
        storage.write_bytes(f"{scheme}://shop/{scheme}", b"1")
    bucket.plan = lambda method, path, count: "expired" if count == 1 else None
    bucket.counts.clear()

    async def both():
        return await asyncio.gather(
            *(storage.fetch_bytes(f"{s}://shop/{s}") for s in ("oss", "s3"))
        )

    assert waited(both()) == [b"1", b"1"]
    assert sum(bucket.counts.values()) == 4


def test_a_bucket_is_no_file(bucket):
    storage.write_bytes("s3://shop/cat/1.jpg", b"1")
    for uri in ("s3://shop", "s3://shop/", "s3://nothing"):
        with pytest.raises(FileNotFoundError):
            client_registry.client_of(uri).describe(uri)
        with pytest.raises(StorageError):
            storage.read_bytes(uri)
    assert not storage.exists("s3://nothing")


def test_an_asynchronous_client_of_fsspec():
    """Reads of gs://, too: the client's coroutines, in its own loop."""

    class Elsewhere(AsyncFileSystemWrapper):
        protocol = "elsewhere"

        def __init__(self, **more):
            super().__init__(MemoryFileSystem(), asynchronous=False, **more)

        @classmethod
        def _strip_protocol(cls, path):
            return path.partition("://")[2]

    fsspec.register_implementation("elsewhere", Elsewhere, clobber=True)
    MemoryFileSystem().pipe_file("/shop/a", b"0123456789")
    assert storage.read_bytes("elsewhere://shop/a") == b"0123456789"
    assert waited(storage.fetch_bytes("elsewhere://shop/a")) == b"0123456789"
    assert waited(storage.fetch_bytes("elsewhere://shop/a", part=(2, 3))) == b"234"
    with pytest.raises(StorageError, match=r"elsewhere://shop/b: no such file or directory$"):
        waited(storage.fetch_bytes("elsewhere://shop/b"))
    MemoryFileSystem.store.clear()
