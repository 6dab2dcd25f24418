"""The signals of a process, and which of them a server takes.

A server that is asked to serve until a signal takes every signal that people and programs send to
servers, since the kernel's own reaction to most of them is to end the process at once, without a
goodbye: a terminal that is closed sends SIGHUP, and so does a program that rotates logs.

    SIGTERM, SIGINT, SIGQUIT             drain, and then end; a second one ends at once
    SIGHUP                               kept for reading the configuration anew; logged until then
    SIGUSR1, SIGUSR2, SIGALRM            logged; nothing happens

SIGPIPE needs nothing: Python ignores it, and a write to a peer that is gone raises an error. A
program that has set a handler of its own for one of these keeps it, and so does a process that was
started with one of them ignored, as `nohup` does. That is not so for SIGTERM and SIGINT.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any, Final

import trio

ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
"""The signals that end a server."""

_ALWAYS: Final = (signal.SIGTERM, signal.SIGINT)
_IF_NOT_TAKEN: Final = (
    *(signal.SIGQUIT, signal.SIGHUP),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM),
)


_active: Final[list[SignalHandlers]] = []
"""Those that are not put back: several servers may run in one process."""


class SignalHandlers:
    """The handlers of the signals that a server takes, from their making until they are put back.

    Of several, the latest hears a signal. They may be put back in any order. No task waits for the
    signals. So they are heard also while the tasks of the server end.
    """

    def __init__(
        self,
        act: Callable[[signal.Signals], None],
        observe: Callable[[signal.Signals], None] | None = None,
    ) -> None:
        """Take the signals.

        `act` is called with each, in the event loop, and must not raise. `observe` is called before
        it, in the signal's handler, and so even if the event loop does not turn any more; it may do
        only what is safe in the midst of any other code. RuntimeError: this is not the main thread.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("only the main thread of a process can wait for its signals")
        self._act = act
        self._observe = observe
        self._token = trio.lowlevel.current_trio_token()
        self._before: dict[signal.Signals, Any] = {}
        free = (one for one in _IF_NOT_TAKEN if signal.getsignal(one) is signal.SIG_DFL)
        for number in (*_ALWAYS, *free):
            self._before[number] = signal.signal(number, self._handle)
        _active.append(self)

    def put_back(self, signals: Iterable[signal.Signals] | None = None) -> None:
        """Put the former handlers of these signals back, or of all of them.

        A handler that was set since then stays, and a later `SignalHandlers` puts back what this
        one found.
        """
        for number in tuple(self._before) if signals is None else signals:
            if number not in self._before:
                continue
            before = self._before.pop(number)
            is_known = [one.replace_former(number, self._handle, before) for one in _active]
            if not any(is_known) and signal.getsignal(number) == self._handle:
                signal.signal(number, before)
        if not self._before and self in _active:
            _active.remove(self)

    def replace_former(self, number: signal.Signals, handler: Any, former: Any) -> bool:
        """Put another handler back than the one that was found; return False if it was not that."""
        if self._before.get(number) != handler:
            return False
        self._before[number] = former
        return True

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        which = signal.Signals(number)
        if self._observe is not None:
            self._observe(which)
        try:
            # Each that ends the server counts, also the second one of a turn; of others, one does.
            self._token.run_sync_soon(self._deliver, which, idempotent=which not in ENDING)
        except trio.RunFinishedError:  # the loop is over, and nobody has put the handlers back
            self.put_back()
            signal.raise_signal(which)

    def _deliver(self, number: signal.Signals) -> None:
        if number in self._before:
            self._act(number)
        else:  # it came just before the handler was put back
            signal.raise_signal(number)
