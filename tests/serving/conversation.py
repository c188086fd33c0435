"""A service in this process, and a client of it."""

import asyncio
import base64
import io

import httpx2

from lookalike.commands.serve import open_service
from lookalike.serving.access import Access
from lookalike.serving.service import Limits, create_app


def data_uri(content):
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()


def png(image):
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def talk(service, conversation, access=None):
    """Run `conversation(client)` with a started service."""

    async def run():
        app = create_app(service, access or Access())
        service.started = True
        await service.batcher.start()
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        try:
            async with httpx2.AsyncClient(
                transport=transport, base_url="http://127.0.0.1", timeout=60
            ) as client:
                return await conversation(client)
        finally:
            await service.batcher.stop()

    return asyncio.run(run())


def small_service(model, index=None, limits=None, **more):
    return open_service(model, index=index, limits=limits or Limits(threads=2), **more)
