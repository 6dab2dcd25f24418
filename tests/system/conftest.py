"""What holds for all tests that start processes."""

from __future__ import annotations

import signal

import pytest


@pytest.fixture(autouse=True)
def interrupts_arrive():
    """Let processes see Ctrl-C: what a shell starts in its background ignores it, children too."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
