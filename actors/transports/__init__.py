"""Transports: the bytes of one connection, over a socket, TLS or memory."""
