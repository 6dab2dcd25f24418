"""Django Channels under daphne, with the in-memory channel layer: topics are its groups."""

import sys
from typing import Any

import django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter
from daphne.server import Server
from django.conf import settings
from envelope import decode, message, publication, subscribed, topics_of, welcome

settings.configure(
    ALLOWED_HOSTS=["*"],
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "channels.layers.InMemoryChannelLayer",
            "CONFIG": {"capacity": 1_000_000},  # its default of 100 silently drops messages
        }
    },
)
django.setup()


class Connection(AsyncWebsocketConsumer):
    """One client."""

    async def connect(self) -> None:
        """Accept, and send the welcome."""
        self.topics: set[str] = set()
        await self.accept()
        await self.send(text_data=welcome().decode())

    async def receive(self, text_data: str = "", bytes_data: bytes | None = None) -> None:
        """Act on one message."""
        del bytes_data
        request = decode(text_data)
        if request.type == "data":
            event = {"type": "deliver", "text": publication(request).decode()}
            await self.channel_layer.group_send(request.topic, event)
        elif request.type == "ping":
            await self.send(text_data=message("pong", request).decode())
        elif request.type == "subscribe":
            for topic in topics_of(request):
                self.topics.add(topic)
                await self.channel_layer.group_add(topic, self.channel_name)
                await self.send(text_data=subscribed(request, topic).decode())

    async def deliver(self, event: dict[str, Any]) -> None:
        """Pass a publication on to this client."""
        await self.send(text_data=event["text"])

    async def disconnect(self, code: int) -> None:
        """Leave the groups."""
        del code
        for topic in self.topics:
            await self.channel_layer.group_discard(topic, self.channel_name)


Server(
    application=ProtocolTypeRouter({"websocket": Connection.as_asgi()}),
    endpoints=[f"tcp:port={int(sys.argv[-1])}:interface=127.0.0.1:backlog=1024"],
    signal_handlers=True,
    verbosity=0,
).run()
