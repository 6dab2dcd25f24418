"""The parts of a server: its tables and rules, made once and connected with each other.

Nothing runs here: `core.py` and `server.py` have the nurseries. The core, the operators' side and
HTTP all work on these parts.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import trio

from ..actors.connection.limits import ConnectionLimits
from ..actors.connection.mailbox import MailboxShared
from ..actors.connection.pacer import Pacer
from ..actors.connection.raw import RawActor
from ..actors.connection.shared import Shared
from ..actors.entrance.handshake import Accepted
from ..actors.session.requests import CLIENT_REQUESTS
from ..actors.session.session import SessionActor, SessionServices
from ..actors.tick import Tick
from ..actors.transports.poller import Poller
from ..protocol.access import AccessRules
from ..protocol.messages.codec import encode_value, head, splice
from ..protocol.messages.topics import PatternSet
from ..protocol.messages.types import Gap, MessageType
from ..protocol.websocket.frames import encode_text
from .app import App
from .config.settings import Settings
from .entrance.admission import Admission, authenticator
from .entrance.tokens import TokenVerifier
from .hub import ClientActor, Hub
from .server_lifecycle import ServerLifecycle
from .telemetry.line_writer import standard_error
from .telemetry.logs import EventLog, Logger
from .telemetry.statistics import Statistics
from .topics.pubsub import PubSub
from .topics.routing import Router
from .topics.topic_options import TopicRuleTable
from .waiting import Endings


@attrs.define(eq=False)
class Nurseries:
    """The nurseries of a server, each None until it is opened.

    The tasks of the server run in them, and operators see them as the tree of actors.
    """

    services: trio.Nursery | None = None
    connections: trio.Nursery | None = None
    listeners: trio.Nursery | None = None


@attrs.frozen
class Parts:
    """The parts of a server, which its other modules share."""

    settings: Settings
    app: App
    tick: Tick
    log: EventLog
    statistics: Statistics
    lifecycle: ServerLifecycle
    router: Router
    pubsub: PubSub
    hub: Hub
    endings: Endings
    shared: Shared
    admission: Admission
    nurseries: Nurseries = attrs.field(factory=Nurseries, init=False)


def make_parts(settings: Settings, app: App, logger: Logger) -> Parts:
    """Return the parts of a new server. Reads the key files that the settings name, so it blocks.

    ConfigurationError: a key cannot be used.
    """
    tick = Tick(slow_turn=settings.slow_turn)
    log = EventLog(logger, tick.now, standard_error())
    tick.on_failure = lambda error: log.write("error", "sampling_failed", exc_info=error)
    statistics = Statistics(tick.wall_time())
    lifecycle = ServerLifecycle()
    rules = TopicRuleTable.of(settings.topics, settings.max_connections_per_topic)
    router = Router(tick, statistics.traffic, rules.options_of)
    router.on_defect = lambda error: log.write("error", "delivery_failed", exc_info=error)
    access = AccessRules(
        PatternSet(settings.subscribe_patterns), PatternSet(settings.publish_patterns)
    )
    pubsub = PubSub(router, rules, access, settings.max_topics_per_connection)
    verifier = TokenVerifier.from_settings(settings)
    endings = Endings(log.write)
    hub = Hub(settings, app, tick, log, statistics, lifecycle, verifier, pubsub, endings)
    shared = Shared(
        tick=tick,
        limits=_connection_limits(settings),
        mailbox=MailboxShared(settings.max_mailbox_size, tick.now, _gap_frames(tick)),
        traffic=statistics.traffic,
        pacer=Pacer(tick),
        life=hub,
    )
    services = SessionServices(
        CLIENT_REQUESTS, app.handlers, app.authorizers, pubsub, hub, app.disconnected_callbacks
    )

    def make_actor(accepted: Accepted) -> ClientActor:
        if accepted.endpoint.raw_handler is not None:
            return RawActor(shared, accepted)
        return SessionActor(shared, accepted, services)

    admission = Admission(
        tick=tick,
        poller=Poller(),
        log_event=log.write,
        statistics=statistics,
        authenticator=authenticator(settings, app, hub.verify),
        max_total=settings.max_total_connections,
        max_handshakes=settings.max_handshakes,
        handshake_timeout=settings.handshake_timeout,
        make=make_actor,
        closed=lambda: (
            None if lifecycle.state.admits else f"this server is {lifecycle.state.reason}"
        ),
    )
    hub.take_place = admission.take_place
    return Parts(
        settings,
        app,
        tick,
        log,
        statistics,
        lifecycle,
        router,
        pubsub,
        hub,
        endings,
        shared,
        admission,
    )


def _connection_limits(settings: Settings) -> ConnectionLimits:
    names = attrs.fields_dict(ConnectionLimits).keys() - {"authentication_timeout"}
    return ConnectionLimits(
        authentication_timeout=settings.handshake_timeout,
        **{name: getattr(settings, name) for name in names},
    )


def _gap_frames(tick: Tick) -> Callable[[str, int], bytes]:
    def gap_frame(topic: str, dropped: int) -> bytes:
        data = encode_value(attrs.asdict(Gap(dropped)))
        return encode_text(splice(head(MessageType.GAP, topic), data, tick.stamp()))

    return gap_frame
