"""Transports: bytes in and out of one connection, over sockets, TLS or memory."""
