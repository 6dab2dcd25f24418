"""The parts that all connections of a server share."""

from __future__ import annotations

from typing import Any

import attrs

from ..ports import LifePort
from ..tick import Tick
from .limits import ConnectionLimits
from .mailbox import MailboxShared
from .pacer import Pacer
from .traffic import Traffic


@attrs.frozen
class Shared:
    """The parts that all connections of a server share; made once."""

    tick: Tick
    limits: ConnectionLimits
    mailbox: MailboxShared
    traffic: Traffic
    pacer: Pacer  # of the ends of connections
    # Takes the kind of connection that is made with this value; the code that makes both has to
    # see to that, since the type does not say it.
    life: LifePort[Any]
