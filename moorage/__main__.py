"""Runs the `moorage` command as `python -m moorage`."""

import sys

from .supervisor.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
