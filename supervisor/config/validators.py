"""The validators of the settings: each checks a value, and says in words what it allows.

They are validators as attrs calls them. The text `allowed` is used twice, in the error that refuses
a value and in the help of the command, so that neither can contradict the other.
"""

import ipaddress
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import attrs

from ...protocol.errors import MoorageError, ProtocolError
from ...protocol.loopback import LOOPBACK
from ...protocol.messages.topics import parse_pattern

_MAX_UNIX_PATH = 107  # bytes: sockaddr_un.sun_path of Linux, less the final NUL
_SHOWN = 60  # characters of a wrong value that an error repeats


class ConfigurationError(MoorageError):
    """A setting has a value that cannot be used.

    `setting` is the setting's name, or the key of a topic rule as TOML writes it
    (`topics."orders.**".overload`). `problem` says what is wrong and `allowed` what would be right;
    it may be empty. `source` says where the value came from: a flag, a variable, a file and its
    line, or None where a program gave it.
    """

    def __init__(
        self, setting: str, problem: str, *, allowed: str = "", source: str | None = None
    ) -> None:
        """Join the parts into a message of one line."""
        self.setting = setting
        self.problem = problem
        self.allowed = allowed
        self.source = source
        where = f" (from {source})" if source else ""
        right = f"; allowed: {allowed}" if allowed else ""
        super().__init__(f"{setting}{where}: {problem}{right}")

    def from_source(self, source: str | None) -> "ConfigurationError":
        """Return the same error with the place that the value came from, unless it names one."""
        return ConfigurationError(
            self.setting, self.problem, allowed=self.allowed, source=self.source or source
        )


@attrs.frozen
class Validator:
    """A check of one value: `problem` returns what is wrong with it, or None where nothing is."""

    allowed: str
    problem: Callable[[Any], str | None]

    def __call__(self, _instance: object, attribute: "attrs.Attribute[Any]", value: Any) -> None:
        """Raise ConfigurationError for a wrong value; attrs calls this."""
        if (problem := self.problem(value)) is not None:
            raise ConfigurationError(attribute.name, problem, allowed=self.allowed)


def whole_number(low: int = 0, high: int | None = None, *, lowest_means: str = "") -> Validator:
    """Allow an int from `low` to `high`, both included; without `high` there is no upper bound.

    `lowest_means` is for the help: it says what the lowest value stands for, where it is special.
    """

    def problem(value: Any) -> str | None:
        if not isinstance(value, int) or isinstance(value, bool):
            return f"{shown(value)} is not a whole number"
        if value < low:
            return f"{value} is too small"
        return f"{value} is too big" if high is not None and value > high else None

    bounds = f"from {low} to {high}" if high is not None else f"{low} or more"
    return Validator(f"a whole number, {bounds}{_special(low, lowest_means)}", problem)


def number(low: float = 0.0, *, or_equal: bool = False, lowest_means: str = "") -> Validator:
    """Allow a finite number above `low`; with `or_equal`, `low` itself as well."""

    def problem(value: Any) -> str | None:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return f"{shown(value)} is not a number"
        if not math.isfinite(value):
            return f"{value} is not finite"
        small = value < low or (value == low and not or_equal)
        return f"{value:g} is too small" if small else None

    bound = f"{low:g} or more" if or_equal else f"above {low:g}"
    return Validator(f"a number, {bound}{_special(low, lowest_means)}", problem)


def one_of(words: tuple[str, ...], *, any_case: bool = False) -> Validator:
    """Allow one of these words; with `any_case`, in capitals too: a converter then lowers them."""

    def problem(value: Any) -> str | None:
        word = value.lower() if any_case and isinstance(value, str) else value
        return None if word in words else f"{shown(value)} is not one of them"

    return Validator(", ".join(words), problem)


def text(allowed: str, check: Callable[[str], str | None]) -> Validator:
    """Allow a string for which `check` finds no problem."""

    def problem(value: Any) -> str | None:
        return check(value) if isinstance(value, str) else f"{shown(value)} is not text"

    return Validator(allowed, problem)


def optional(inner: Validator) -> Validator:
    """Allow None, and what the inner validator allows."""

    def problem(value: Any) -> str | None:
        return None if value is None else inner.problem(value)

    return Validator(inner.allowed, problem)


def each(inner: Validator) -> Validator:
    """Allow a tuple whose entries are all allowed by the inner validator."""

    def problem(value: Any) -> str | None:
        if not isinstance(value, tuple):
            return f"{shown(value)} is not a list"
        return _first(inner.problem(entry) for entry in cast("tuple[Any, ...]", value))

    return Validator(f"{inner.allowed} (or several)", problem)


def shown(value: object) -> str:
    """Return a wrong value as errors repeat it: quoted, and cut where it is long."""
    whole = repr(value)
    return whole if len(whole) <= _SHOWN else f"{whole[:_SHOWN]}…"


def _first(problems: Iterable[str | None]) -> str | None:
    return next((problem for problem in problems if problem is not None), None)


def _special(low: float, meaning: str) -> str:
    return f" ({low:g}: {meaning})" if meaning else ""


def _flag_problem(value: Any) -> str | None:
    return None if isinstance(value, bool) else f"{shown(value)} is neither true nor false"


def _path_problem(value: Any) -> str | None:
    if not isinstance(value, Path):
        return f"{shown(value)} is not a path"
    return "the path is empty" if value == Path() else None


def _unix_path_problem(value: Any) -> str | None:
    if (problem := _path_problem(value)) is not None:
        return problem
    size = len(bytes(value))
    return f"its {size} bytes are more than the system takes" if size > _MAX_UNIX_PATH else None


def _host_problem(value: str) -> str | None:
    if ":" in value:
        try:
            ipaddress.IPv6Address(value)
        except ValueError:
            return f"{shown(value)} is not an IPv6 address; the port is a setting of its own"
    elif not re.fullmatch(r"[\w.-]+", value):
        return f"{shown(value)} is not a host"
    return None


def _url_path_problem(value: str) -> str | None:
    if not value.startswith("/"):
        return f"{shown(value)} does not begin with /"
    # RFC 3986, section 3.3: the characters of a path; a query or a fragment is not part of it.
    if wrong := re.search(r"[^A-Za-z0-9/._~!$&'()*+,;=:@%-]", value):
        return f"{shown(value)} contains {wrong[0]!r}"
    return None


def _origin_problem(value: str) -> str | None:
    # RFC 6454, section 6.1: scheme, host and port; browsers send them in lower case.
    if value in ("*", "null", LOOPBACK) or re.fullmatch(
        r"[a-z][a-z0-9+.-]*://[^/\s,?#@A-Z]+", value
    ):
        return None
    return f"{shown(value)} is not an origin: one has no path, no final / and no capitals"


def _network_problem(value: str) -> str | None:
    try:
        ipaddress.ip_network(value)
    except ValueError as error:
        return str(error)
    return None


def _pattern_problem(value: str) -> str | None:
    try:
        parse_pattern(value)
    except ProtocolError as error:
        return str(error)
    return None


def _empty_problem(value: str) -> str | None:
    return None if value.strip() else "it is empty"


FLAG = Validator("true or false", _flag_problem)
# Whether the file exists is found out when it is opened, not here.
ANY_PATH = Validator("a path", _path_problem)
UNIX_PATH = Validator(f"a path of at most {_MAX_UNIX_PATH} bytes", _unix_path_problem)
HOST = text("a host name, or an IPv4 or IPv6 address without a port", _host_problem)
URL_PATH = text("a path that begins with /, such as /ws", _url_path_problem)
ORIGIN = text(
    f"an origin such as https://app.example.org, * for any, {LOOPBACK} for this machine's",
    _origin_problem,
)
NETWORK = text("an address or a network such as 10.0.0.0/8", _network_problem)
PATTERN = text("a topic pattern such as orders.*.paid, or ** for every topic", _pattern_problem)
NOT_EMPTY = text("text that is not empty", _empty_problem)
