"""What holds for all tests that start processes."""

from __future__ import annotations

import signal

import pytest


@pytest.fixture(autouse=True)
def interrupts_arrive():
    """Let processes see Ctrl-C and its kind, which their parents may ignore, and so they would.

    What a shell starts in its background ignores SIGINT and SIGQUIT, what `nohup` starts SIGHUP.
    """
    numbers = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler is signal.SIG_IGN:
            is_interrupt = number is signal.SIGINT
            signal.signal(number, signal.default_int_handler if is_interrupt else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
