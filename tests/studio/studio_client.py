"""A client of a studio in this process."""

import asyncio

import httpx2

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
