"""The opening handshake: endpoints, proxies, and the way to an authenticated client."""
