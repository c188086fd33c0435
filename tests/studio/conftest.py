"""A studio on a folder of its own, asked in this process."""

import asyncio

import httpx2
import pytest

from lookalike.serving.access import Access
from lookalike.studio.studio_app import create_app

ADDRESS = "http://127.0.0.1:8080"


class Client:
    def __init__(self, app):
        self.app = app

    def ask(self, method, path, **more):
        async def one():
            transport = httpx2.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx2.AsyncClient(transport=transport, base_url=ADDRESS) as client:
                return await client.request(method, path, **more)

        return asyncio.run(one())

    def get(self, path, **more):
        return self.ask("GET", path, **more)

    def post(self, path, data=None, **more):
        return self.ask("POST", path, data=data, **more)


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "train.txt").write_text("a.jpg 0\nb.jpg 1\n")
    (folder / "val.txt").write_text("c.jpg 2\nd.jpg 2\n")
    (tmp_path / "secret.txt").write_text("secret 0\n")
    return folder


@pytest.fixture
def client(root):
    return Client(create_app([root], Access()))
