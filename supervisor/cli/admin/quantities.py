"""Numbers for people: a few digits, and a unit that suits them."""

from datetime import UTC, datetime

_THOUSANDS = ("", "k", "M", "G", "T")

_BARS = "▁▂▃▄▅▆▇█"


def count(number: float) -> str:
    """Return a whole number with its thousands apart: `8,123`."""
    return f"{number:,.0f}"


def counted(number: int, one: str, many: str = "") -> str:
    """Return a number and what it counts: `1 topic`, `2 topics`."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def rate(per_second: float, unit: str = "") -> str:
    """Return a rate in three digits: `12.3 k/s`, `3.10 MB/s`."""
    return f"{_scaled(per_second, unit)}/s"


def size(number: float) -> str:
    """Return a number of bytes in three digits: `0 B`, `1.94 MB`."""
    return _scaled(number, "B")


def _scaled(number: float, unit: str) -> str:
    for prefix in _THOUSANDS:
        if number < 999.5 or prefix == _THOUSANDS[-1]:
            space = " " if prefix or unit else ""
            return f"{_three_digits(number, whole=not prefix)}{space}{prefix}{unit}"
        number /= 1000
    raise AssertionError  # the last prefix fits everything


def _three_digits(number: float, *, whole: bool) -> str:
    if number == 0 or (whole and number == int(number)):
        return f"{number:.0f}"
    if number >= 99.95:
        return f"{number:.0f}"
    return f"{number:.1f}" if number >= 9.995 else f"{number:.2f}"


def span(seconds: float) -> str:
    """Return a length of time in its two largest units at most: `0.9 ms`, `3 h 12 min`."""
    if seconds < 0:
        return f"-{span(-seconds)}"
    if seconds == 0:
        return "0 s"
    if seconds < 0.9995:
        return f"{seconds * 1000:.1f} ms" if seconds < 0.09995 else f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86_400
    if minutes < 60:
        return f"{minutes} min {whole % 60} s"
    if hours < 24:
        return f"{hours} h {minutes % 60} min"
    return f"{days} d {hours % 24} h"


def brief(seconds: float) -> str:
    """Return a length of time in its largest unit alone: `52 ms`, `3 h`."""
    number, unit, *_ = span(seconds).split()
    return f"{float(number):.0f} {unit}" if unit == "ms" else f"{number} {unit}"


def share(part: float, whole: float) -> str:
    """Return a part of a whole in per cent, and not 100 % unless it is all."""
    if whole <= 0:
        return "0 %"
    percent = 100 * part / whole
    if 99.95 <= percent < 100:
        return f"{int(percent * 1000) / 1000:.3f} %"
    return f"{percent:.0f} %" if percent in (0, 100) else f"{percent:.1f} %"


def moment(text: str) -> str:
    """Return a point in time of the protocol as `2026-01-31 12:00:00 UTC`."""
    found = _parsed(text)
    return text if found is None else f"{found:%Y-%m-%d %H:%M:%S} UTC"


def age(text: str) -> str:
    """Return how long ago a point in time of the protocol was, by this machine's clock: `3 h`."""
    found = _parsed(text)
    return (
        "?" if found is None else brief(max(0, round((datetime.now(UTC) - found).total_seconds())))
    )


def _parsed(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found.astimezone(UTC)


def trend(values: list[float]) -> str:
    """Return a row of bars, one for each value, the tallest for the largest of them."""
    top = max(values, default=0)
    if top <= 0:
        return _BARS[0] * len(values)
    last = len(_BARS) - 1
    return "".join(_BARS[round(last * max(value, 0) / top)] for value in values)
