"""The `moorage` command: one file a command, and `main` that runs them."""

from .main import main

__all__ = ["main"]
