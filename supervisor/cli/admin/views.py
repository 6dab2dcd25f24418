"""The views of the answers: how each is shown to a person."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from ....protocol.admin import answers
from ..terminal.rendering import compact
from .quantities import age, brief, count, counted, moment, rate, share, size, span
from .tables import BAD, FAINT, GOOD, TITLE, WORRY, Column, gauge, listing, pairs, plain, said

_STATE_STYLES: Final = {"open": GOOD, "authenticating": WORRY, "closing": BAD}

_SUBSCRIBERS: Final = 20
"""Subscribers of a topic that are shown: five lines of a terminal of 80 characters."""

Summary = answers.ConnectionSummary


def state(name: str) -> Text:
    """Return the name of a connection's state, in its colour."""
    return plain(name, _STATE_STYLES.get(name, ""))


def _user(user_id: str | None) -> Text:
    return Text("-", style=FAINT) if user_id is None else plain(user_id)


def _waiting(number: int) -> Text:
    return said(number, size(number))


_CONNECTION_COLUMNS: Final[tuple[Column[Summary], ...]] = (
    Column("connection", lambda row: plain(row.connection_id)),
    Column("user", lambda row: _user(row.user_id)),
    Column("state", lambda row: state(row.state), spare=1),
    Column("address", lambda row: plain(row.address), spare=5),
    Column("path", lambda row: plain(row.path), spare=9),
    Column("since", lambda row: age(row.connected_at), right=True, spare=4),
    Column("quiet", lambda row: brief(row.quiet_for), right=True, spare=3),
    Column("rtt", lambda row: "-" if row.rtt is None else brief(row.rtt), right=True, spare=8),
    Column("topics", lambda row: count(row.topics), right=True, spare=7),
    Column("in", lambda row: count(row.messages_in), right=True, spare=6),
    Column("out", lambda row: count(row.messages_out), right=True, spare=6),
    Column("mailbox", lambda row: _waiting(row.mailbox_bytes), right=True),
    Column("dropped", lambda row: said(row.dropped, count(row.dropped)), right=True, spare=2),
)


def connections_view(
    console: Console, rows: Sequence[Summary], total: int, cursor: str | None
) -> RenderableType:
    """Show a page of connections, and how to get the next."""
    if not rows:
        return Text("no connections")
    footer = counted(total, "connection")
    if len(rows) < total:
        footer = f"{count(len(rows))} of {footer}"
    if cursor is not None:
        footer += f"; the next: --cursor {cursor}, all of them: --all"
    return Group(listing(console, _CONNECTION_COLUMNS, rows), plain(footer, FAINT))


def slowest_view(
    console: Console, rows: Sequence[Summary], *, explained: bool = True
) -> RenderableType:
    """Show the connections with the fullest mailboxes."""
    title = "slowest consumers"
    return listing(console, _CONNECTION_COLUMNS, rows, title, explained=explained)


def connection_view(found: answers.ConnectionDetail) -> RenderableType:
    """Show one connection, in detail."""
    mailbox = _waiting(found.mailbox_bytes)
    if found.mailbox_oldest is not None:
        mailbox.append(f", the oldest of it for {span(found.mailbox_oldest)}")
    standing = state(found.state)
    if found.close_cause is not None:
        standing.append_text(plain(f": {found.close_cause}"))
    if found.probed:
        standing.append(", asked for a sign of life", style=WORRY)
    expires = found.token_expires_at
    rows = [
        ("user", _user(found.user_id)),
        ("role", plain(found.role or "-")),
        ("session", plain(found.session_id or "-")),
        ("token expires", "-" if expires is None else moment(expires)),
        ("address", plain(found.address)),
        ("endpoint", plain(f"{found.path} ({found.kind})")),
        ("state", standing),
        ("connected", f"{moment(found.connected_at)}, {age(found.connected_at)} ago"),
        ("heard last", f"{moment(found.last_activity)}, {span(found.quiet_for)} ago"),
        ("round trip", "-" if found.rtt is None else span(found.rtt)),
        (
            "next deadline",
            "-" if found.next_deadline is None else f"in {span(found.next_deadline)}",
        ),
        ("received", f"{counted(found.messages_in, 'message')}, {size(found.bytes_in)}"),
        ("sent", f"{counted(found.messages_out, 'message')}, {size(found.bytes_out)}"),
        ("mailbox", mailbox),
        ("dropped", said(found.dropped, counted(found.dropped, "message"))),
        ("errors", said(found.errors, count(found.errors))),
        ("topics", plain(", ".join(found.topics) or "-")),
        ("metadata", plain(compact(found.metadata) if found.metadata else "-")),
    ]
    return pairs(*rows, title=f"connection {found.connection_id}")


_TOPIC_COLUMNS: Final[tuple[Column[answers.TopicSummary], ...]] = (
    Column("topic", lambda row: plain(row.topic)),
    Column("subscribers", lambda row: count(row.subscribers), right=True),
    Column("published", lambda row: count(row.published), right=True),
)


def topics_view(
    console: Console, rows: Sequence[answers.TopicSummary], total: int, cursor: str | None
) -> RenderableType:
    """Show a page of topics, and how to get the next."""
    if not rows:
        return Text("no topics: a topic is there while it has a subscriber")
    footer = counted(total, "topic")
    if len(rows) < total:
        footer = f"{count(len(rows))} of {footer}"
    if cursor is not None:
        footer += f"; the next: --cursor {cursor}, all of them: --all"
    return Group(listing(console, _TOPIC_COLUMNS, rows), plain(footer, FAINT))


def topic_view(found: answers.TopicDetail) -> RenderableType:
    """Show one topic, in detail."""
    publish_rate = "shown from the second time that it is asked for"
    if found.publish_rate is not None:
        publish_rate = f"{rate(found.publish_rate)} since it was last asked for"
    parts: list[RenderableType] = [
        pairs(
            ("subscribers", count(found.subscribers)),
            ("published", counted(found.published, "message")),
            ("rate", publish_rate),
            ("overload policy", found.overload_policy),
            title=f"topic {found.topic}",
        )
    ]
    if found.connection_ids:
        ids = [plain(name) for name in found.connection_ids[:_SUBSCRIBERS]]
        parts += [Text("\nsubscribers", style=TITLE), Columns(ids, padding=(0, 2))]
        if (more := found.subscribers - len(ids)) > 0:
            command = f"moorage admin connections --topic {shlex.quote(found.topic)} --all"
            parts.append(plain(f"… and {count(more)} more: `{command}` lists all", FAINT))
    return Group(*parts)


def health_view(found: answers.Health) -> RenderableType:
    """Show whether a server is ready for new clients, and how near its limits are."""
    lag = f"{span(found.loop_lag)}, at most {span(found.loop_lag_max)} of late"
    limits = {name: value for name, value in found.limits.items() if value}
    return Group(
        pairs(
            ("status", readiness(found)),
            ("up for", span(found.uptime)),
            ("loop lag", lag),
            ("connections", _headroom(found.connections)),
            ("handshakes", _headroom(found.handshakes)),
            (
                "descriptors",
                "not known" if found.descriptors is None else _headroom(found.descriptors),
            ),
            ("log", _log(found.log)),
        ),
        Text(""),
        pairs(
            *((name, f"{value:,.15g}") for name, value in limits.items()),
            title="limits",
        ),
    )


def readiness(found: answers.Health) -> Text:
    """Return the readiness of a server in a few words."""
    if found.ready:
        return Text("ready", style=GOOD)
    return plain(f"not ready: {', '.join(found.reasons)}", BAD)


def _log(found: answers.LogHealth) -> Text:
    text = f"{count(found.lines_lost)} lines lost, {size(found.bytes_waiting)} waiting"
    return Text(text, style=BAD if found.lines_lost else "")


def _headroom(found: answers.Headroom) -> Text:
    text = f" {count(found.used)} of {count(found.limit)}"
    return gauge(found.used, found.limit).append(text)


def stats_view(console: Console, found: answers.Stats) -> RenderableType:
    """Show all counters and rates."""
    rates, cleanup = found.rates, found.cleanup
    lag = f"{span(found.loop_lag)}, at most {span(found.loop_lag_max)} of late"
    lost = found.messages_failed + found.messages_dropped
    sent = found.messages_sent + lost
    parts: list[RenderableType] = [
        pairs(
            ("version", found.version),
            ("started", f"{moment(found.started_at)}, {span(found.uptime)} ago"),
            ("loop lag", lag),
            ("slow turns", count(found.slow_turns)),
            title="server",
        ),
        pairs(
            ("now", f"{count(found.active_connections)} of {counted(found.users, 'user')}"),
            ("by state", _counts(found.connections_by_state)),
            ("handshaking", count(found.handshaking)),
            ("since the start", count(found.total_connections)),
            ("refused", _counts(found.refused, "HTTP ")),
            ("left early", count(found.left_early)),
            ("unanswered", said(found.unanswered, count(found.unanswered))),
            ("gave way", said(found.gave_way, count(found.gave_way))),
            ("operators", count(found.control_sessions)),
            title="connections",
        ),
        pairs(
            ("in", _flow(found.messages_received, found.bytes_received, rates, "in")),
            ("out", _flow(found.messages_sent, found.bytes_sent, rates, "out")),
            ("published", f"{count(found.published)}, {rate(rates.published)}"),
            (
                "topics",
                f"{count(found.topics)} with {counted(found.subscriptions, 'subscription')}",
            ),
            ("mailboxes", _waiting(found.mailbox_bytes)),
            ("delivered", share(found.messages_sent, sent) if sent else "-"),
            ("failed", said(found.messages_failed, count(found.messages_failed))),
            ("dropped", said(found.messages_dropped, count(found.messages_dropped))),
            title="messages",
        ),
        pairs(
            ("bad messages", said(found.bad_messages, count(found.bad_messages))),
            ("rate limited", said(found.rate_limited, count(found.rate_limited))),
            ("handler errors", said(found.handler_errors, count(found.handler_errors), BAD)),
            ("handler timeouts", said(found.handler_timeouts, count(found.handler_timeouts), BAD)),
            title="trouble",
        ),
        pairs(
            ("closed by cause", _counts(found.closed_by_cause)),
            (
                "heartbeats",
                counted(cleanup.heartbeats, "sign of life asked for", "signs of life asked for"),
            ),
            ("`cleanup`", f"{counted(cleanup.runs, 'run')}, {count(cleanup.probed)} probed"),
            ("closed by it", count(cleanup.closed)),
            ("closed by timeout", count(cleanup.closed_by_timeout)),
            ("took no messages", count(cleanup.closed_by_failed_delivery)),
            title="endings",
        ),
    ]
    if found.connections_by_topic:
        largest = [(name, count(number)) for name, number in found.connections_by_topic.items()]
        columns = (
            Column[tuple[str, str]]("topic", lambda row: plain(row[0])),
            Column[tuple[str, str]]("subscribers", lambda row: row[1], right=True),
        )
        parts.append(listing(console, columns, largest, "largest topics"))
    if found.slowest_consumers:
        parts.append(slowest_view(console, found.slowest_consumers))
    return Group(*spaced(parts))


def spaced(parts: Sequence[RenderableType]) -> list[RenderableType]:
    """Return the parts with an empty line between each two."""
    lines: list[RenderableType] = []
    for part in parts:
        lines += [part, Text("")]
    return lines[:-1]


def _flow(messages: int, volume: int, rates: answers.Rates, way: str) -> str:
    per_second = {
        "in": (rates.messages_in, rates.bytes_in),
        "out": (rates.messages_out, rates.bytes_out),
    }
    speed, bandwidth = per_second[way]
    return f"{count(messages)}, {rate(speed)}; {size(volume)}, {rate(bandwidth, 'B')}"


def _counts(counts: Mapping[str, Any], what: str = "") -> str:
    largest = sorted(counts.items(), key=lambda item: -item[1])
    return (
        ", ".join(f"{what}{name} {count(number)}" for name, number in largest if number) or "none"
    )


_ACTOR_STYLES: Final = {
    "serving": GOOD,
    "accepting": GOOD,
    "open": GOOD,
    "authenticating": WORRY,
    "suspended": BAD,
    "draining": BAD,
    "drained": BAD,
    "terminating": BAD,
    "stopping": BAD,
    "refusing": BAD,
    "closing": BAD,
}


def tree_view(root: answers.Actor) -> RenderableType:
    """Show the tree of actors, from the supervisor down."""
    drawn = Tree(_actor_label(root), guide_style=FAINT)
    for child in root.children:
        _draw_actor(child, drawn)
    parts: list[RenderableType] = [drawn]
    if root.omitted:
        text = f"{counted(root.omitted, 'more connection')}: --limit shows up to 1,000"
        parts.append(Text(text, style=FAINT))
    return Group(*parts)


def _draw_actor(actor: answers.Actor, parent: Tree) -> None:
    branch = parent.add(_actor_label(actor))
    for child in actor.children:
        _draw_actor(child, branch)


def _actor_label(actor: answers.Actor) -> Text:
    """Return a line about an actor, and another one if something waits in its mailbox."""
    text = plain(actor.name.removesuffix(":"), TITLE)
    if actor.state != "running":
        text.append("  ").append_text(plain(actor.state, _ACTOR_STYLES.get(actor.state, "")))
    if actor.next_deadline is not None:
        text.append(f"  deadline {span(actor.next_deadline)}", style=FAINT)
    if actor.waits_for is not None:
        # A listener's URL leaves no room for it on a line of 80 characters.
        text.append("\n" if actor.kind == "listener" else "  ")
        text.append_text(plain(actor.waits_for, FAINT))
    if actor.mailbox_bytes:
        waiting = f"\n{size(actor.mailbox_bytes)} waiting"
        if actor.mailbox_oldest is not None:
            waiting += f", the oldest for {span(actor.mailbox_oldest)}"
        text.append(waiting, style=WORRY)
    return text
