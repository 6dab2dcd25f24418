"""WebSocket itself (RFC 6455): the opening handshake's bytes, and frames."""
