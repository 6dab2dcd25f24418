"""Moorage: an actor-model supervisor for WebSocket connections, on Trio."""
