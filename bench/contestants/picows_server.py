"""`picows` (Cython) on uvloop, as its documentation runs it; a fan-out is a loop over `send`."""

import sys

import uvloop
from envelope import decode, message, publication, subscribed, topics_of, welcome
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_create_server

subscribers: dict[str, set[WSTransport]] = {}


class Connection(WSListener):
    """One client; picows calls back for everything."""

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Send the welcome."""
        transport.send(WSMsgType.TEXT, welcome())

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Act on one message."""
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
            return
        if frame.msg_type != WSMsgType.TEXT:
            return
        request = decode(frame.get_payload_as_memoryview())
        if request.type == "data":
            text = publication(request)
            for subscriber in subscribers.get(request.topic, ()):
                subscriber.send(WSMsgType.TEXT, text)
        elif request.type == "ping":
            transport.send(WSMsgType.TEXT, message("pong", request))
        elif request.type == "subscribe":
            for topic in topics_of(request):
                subscribers.setdefault(topic, set()).add(transport)
                transport.send(WSMsgType.TEXT, subscribed(request, topic))

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Remove the client from all topics."""
        for members in subscribers.values():
            members.discard(transport)


async def main() -> None:
    """Serve until the process is stopped."""
    server = await ws_create_server(
        lambda _request: Connection(), "127.0.0.1", int(sys.argv[-1]), backlog=1024
    )
    await server.serve_forever()


uvloop.run(main())
