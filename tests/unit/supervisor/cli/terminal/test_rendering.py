"""A message as one line."""

import pytest

from moorage.protocol.messages.envelope import Envelope
from moorage.supervisor.cli.terminal.rendering import readable


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (Envelope(type="data", topic="t", data={"ä": 1}), '--:--:-- t {"ä": 1}'),
        (
            Envelope(type="chat", topic="t", timestamp="2023-01-01T12:34:56.789Z"),
            "12:34:56 t chat",
        ),
        (
            Envelope(type="error", error="no such thing", data={"code": "forbidden"}),
            "--:--:-- error: no such thing (forbidden)",
        ),
        (
            Envelope(type="gap", topic="t", data={"dropped": 7}),
            "--:--:-- t gap: 7 messages are missing",
        ),
        (
            Envelope(type="goodbye", data={"reason": "drain", "reconnect_after": 1.5}),
            "--:--:-- goodbye: drain (coming back in 1.5 s)",
        ),
        (
            Envelope(type="error", error="\x1b[2J\x07", data=7),
            "--:--:-- error: \\x1b[2J\\x07 (None)",
        ),
    ],
)
def test_a_message_is_one_line_that_cannot_steer_the_terminal(message, line):
    assert readable(message) == line
