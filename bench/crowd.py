"""A crowd of clients, in one process: `python -m bench.crowd PORT TOKENS`.

It does what the lines on its standard input say, and answers each with a line of its own:
`connect N` brings the crowd to that size, `ping` sends a ping on every connection. Meanwhile it
answers heartbeats and Close frames. It is not fast, and need not be; it is one process, so that a
single signal kills all of it.
"""

import select
import socket
import sys
from pathlib import Path

from attrs import define

_UNDER_WAY = 128
"""Opening handshakes at a time."""

_PING = bytes([0x81, 0x80 | 15]) + bytes(4) + b'{"type":"ping"}'
_PONG = bytes([0x8A, 0x80]) + bytes(4)
_CLOSE = bytes([0x88, 0x82]) + bytes(4) + (1000).to_bytes(2)


@define(eq=False)
class _Client:
    socket: socket.socket
    connected: bool = False
    buffer: bytes = b""

    def received(self, data: bytes) -> bool:
        """Act on what came; return False when the connection is over."""
        self.buffer += data
        if not self.connected:
            head, end, rest = self.buffer.partition(b"\r\n\r\n")
            if not end:
                return True
            if b" 101 " not in head.split(b"\r\n")[0]:
                raise SystemExit(f"a client was refused: {head.splitlines()[0]!r}")
            self.connected, self.buffer = True, rest
        while len(self.buffer) >= 2:
            opcode, length, begin = self.buffer[0] & 0xF, self.buffer[1] & 0x7F, 2
            if length == 126:
                length, begin = int.from_bytes(self.buffer[2:4]), 4
            if len(self.buffer) < begin + length:
                break
            self.buffer = self.buffer[begin + length :]
            if opcode == 0x8:
                self.socket.send(_CLOSE)
                return False
            if opcode == 0x9:
                self.socket.send(_PONG)  # any bytes are a sign of life
        return True


class _Crowd:
    def __init__(self, port: int, tokens: list[str]) -> None:
        self._port = port
        self._tokens = tokens
        self._epoll = select.epoll()
        self._epoll.register(sys.stdin.fileno(), select.EPOLLIN)
        self._clients: dict[int, _Client] = {}
        self._wanted = 0
        self._begun = 0
        self._connected = 0

    def run(self) -> None:
        while True:
            for descriptor, _ in self._epoll.poll():
                if descriptor == sys.stdin.fileno():
                    line = sys.stdin.readline()
                    if not line:
                        return
                    self._command(*line.split())
                    continue
                client = self._clients.get(descriptor)
                if client is not None:
                    self._read(client)

    def _command(self, word: str, number: str = "") -> None:
        if word == "connect":
            self._wanted = int(number)
            for _ in range(min(_UNDER_WAY, self._wanted - self._begun)):
                self._begin()
            return
        if word == "ping":
            for client in tuple(self._clients.values()):
                client.socket.send(_PING)
        print(len(self._clients), flush=True)

    def _begin(self) -> None:
        token = self._tokens[self._begun % len(self._tokens)]
        self._begun += 1
        connected = socket.create_connection(("127.0.0.1", self._port))
        connected.settimeout(0)
        request = (
            "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            f"Authorization: Bearer {token}\r\n\r\n"
        )
        connected.send(request.encode())
        self._clients[connected.fileno()] = _Client(connected)
        self._epoll.register(connected.fileno(), select.EPOLLIN)

    def _read(self, client: _Client) -> None:
        was_connected = client.connected
        try:
            data = client.socket.recv(65_536)
            goes_on = bool(data) and client.received(data)
        except BlockingIOError:
            return
        except OSError:
            goes_on = False
        if not goes_on:
            del self._clients[client.socket.fileno()]
            client.socket.close()
        elif client.connected and not was_connected:
            self._connected += 1
            if self._begun < self._wanted:
                self._begin()
            if self._connected == self._wanted:
                print(self._connected, flush=True)


if __name__ == "__main__":
    _Crowd(int(sys.argv[1]), Path(sys.argv[2]).read_text().split()).run()
