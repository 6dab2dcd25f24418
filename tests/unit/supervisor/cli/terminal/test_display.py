"""Messages on a terminal, and the bars of progress."""

from io import StringIO

import attrs
from rich.console import Console

from moorage.protocol.messages.envelope import Envelope
from moorage.supervisor.cli.terminal.display import Display, is_progress


def progress(done, total, **more) -> Envelope:
    return Envelope(type="progress", topic="batch_7", data={"done": done, "total": total, **more})


def test_progress_is_a_bar_on_a_terminal():
    out = StringIO()
    display = Display(Console(file=out, force_terminal=True, width=80, color_system=None))
    display.show(progress(1, 3, message="invoice [1]"))
    display.show(Envelope(type="data", topic="news", data="meanwhile"))
    display.show(progress(2.5, 3))
    display.show(progress(3, 3, message="done"))
    display.show(progress(1, 2))
    display.close()
    display.close()
    text = out.getvalue()
    assert "batch_7" in text
    assert "1/3 invoice [1]" in text
    assert '--:--:-- news "meanwhile"' in text
    assert "3/3 done" in text
    assert "1/2" in text


def test_only_numbers_make_a_bar():
    assert is_progress(progress(1, 2))
    for message in (
        progress("1", 2),
        progress(True, 2),
        progress(1, None),
        attrs.evolve(progress(1, 2), type="data"),
        attrs.evolve(progress(1, 2), data=[1, 2]),
    ):
        assert not is_progress(message)
