"""The states of a client, and the legal moves between them."""

from __future__ import annotations

from enum import Enum
from typing import Final


class ClientState(Enum):
    """The stage of its life that a client is in."""

    # Before the first attempt to connect, and between two attempts.
    WAITING = "waiting"
    # An attempt is under way: the handshake, the welcome and the subscriptions are part of it.
    CONNECTING = "connecting"
    # The server has sent its welcome and has confirmed all topics that the client wants.
    CONNECTED = "connected"
    # The program is leaving the client's context.
    CLOSING = "closing"
    # The client has ended and does nothing more.
    CLOSED = "closed"


_S = ClientState
# The whole life of a client: a move that is missing here is illegal.
MOVES: Final = {
    _S.WAITING: {_S.CONNECTING, _S.CLOSING},
    _S.CONNECTING: {_S.CONNECTED, _S.WAITING, _S.CLOSING, _S.CLOSED},
    _S.CONNECTED: {_S.WAITING, _S.CLOSING, _S.CLOSED},
    _S.CLOSING: {_S.CLOSED},
    _S.CLOSED: set[ClientState](),
}
