"""Pictures of a run: throughput against subscribers, latencies, memory against connections."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from bench.cases import DELIVERIES, USER_MEMORY
from bench.roster import CONTESTANTS
from bench.rounds import Round

try:
    import matplotlib as mpl

    mpl.use("Agg")  # no display is needed
    from matplotlib import pyplot as plt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture
    from matplotlib.ticker import EngFormatter, NullFormatter
except ImportError as error:
    raise SystemExit("--plot needs matplotlib: pip install -e '.[bench]'") from error

_OTHERS = ("C0", "C1", "C2", "C4", "C5", "C6", "C7", "C8", "C9")
_COLOURS = {"moorage": "crimson", "limit": "black"} | dict(
    zip((name for name in CONTESTANTS if name not in {"moorage", "limit"}), _OTHERS, strict=True)
)


def _line(axes: Axes, name: str, xs: list[float], ys: list[float], marker: str = "o") -> None:
    """Draw one contestant's line: Moorage's is thick, the limit's is dashed."""
    axes.plot(
        xs,
        ys,
        marker=marker,
        markersize=4,
        label=name,
        color=_COLOURS[name],
        linewidth=2.6 if name == "moorage" else 1.3,
        linestyle="--" if name == "limit" else "-",
        zorder=3 if name == "moorage" else 2,
    )


def _panels(titles: list[str], what: str) -> tuple[Picture, list[Axes]]:
    picture, grid = plt.subplots(
        1, len(titles), figsize=(4.6 * len(titles) + 1, 4.4), squeeze=False, sharey=True
    )
    picture.suptitle(what)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=10)
        axes.grid(visible=True, which="both", alpha=0.25)
    return picture, list(grid[0])


def _save(picture: Picture, axes: list[Axes], folder: Path, name: str) -> Iterator[Path]:
    for one in axes:
        for axis in (one.xaxis, one.yaxis):
            axis.set_major_formatter(EngFormatter(sep=""))
            axis.set_minor_formatter(NullFormatter())
    axes[-1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    for ending in ("png", "svg"):
        path = folder / f"{name}.{ending}"
        picture.savefig(path, bbox_inches="tight", dpi=140)
        yield path
    plt.close(picture)


def _medians(rounds: Iterable[Round], figure: str, by: str) -> dict[str, dict[float, float]]:
    """Return contestant -> parameter `by` -> median of a figure."""
    values: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in rounds:
        values[one.contestant][one.case.parameters[by]].append(one.figures[figure])
    return {
        name: {at: statistics.median(many) for at, many in sorted(points.items())}
        for name, points in values.items()
    }


def _throughput(rounds: list[Round], folder: Path) -> Iterator[Path]:
    """Deliveries per second against subscribers, a panel for each number in flight."""
    payload = min(one.case.parameters["payload"] for one in rounds)
    rounds = [one for one in rounds if one.case.parameters["payload"] == payload]
    in_flight = sorted({one.case.parameters["in_flight"] for one in rounds})
    picture, panels = _panels([f"{number} in flight" for number in in_flight], "Fan-out")
    for axes, number in zip(panels, in_flight, strict=True):
        chosen = (one for one in rounds if one.case.parameters["in_flight"] == number)
        for name, points in _medians(chosen, DELIVERIES.name, "subscribers").items():
            _line(axes, name, list(points), list(points.values()))
        axes.set(xscale="log", yscale="log", xlabel="subscribers")
    panels[0].set_ylabel(f"deliveries/s, {payload} B each")
    yield from _save(picture, panels, folder, "throughput")


def _beyond(rounds: Iterable[Round]) -> tuple[list[float], list[float]]:
    """Return latencies (ms), and for each the share of publications that took longer (%)."""
    counts: dict[float, int] = defaultdict(int)
    for one in rounds:
        for edge, count in one.observations[-1].result.histogram:
            counts[edge] += count
    total = left = sum(counts.values())
    edges, shares = [], []
    for edge, count in sorted(counts.items()):
        left -= count
        edges.append(edge * 1e3)
        shares.append(max(left, 0.5) / total * 100)
    return edges, shares


def _latency(rounds: list[Round], folder: Path) -> Iterator[Path]:
    """The share of publications that took longer than a time in milliseconds."""
    counts = sorted({one.case.parameters["subscribers"] for one in rounds})
    subscribers = 1_000 if 1_000 in counts else counts[-1]
    payload = min(one.case.parameters["payload"] for one in rounds)
    wanted = {"subscribers": subscribers, "payload": payload}
    rounds = [one for one in rounds if wanted.items() <= one.case.parameters.items()]
    in_flight = sorted({one.case.parameters["in_flight"] for one in rounds})
    picture, panels = _panels(
        [f"{number} in flight" for number in in_flight],
        f"From publication to the last of {subscribers:,} deliveries",
    )
    for axes, number in zip(panels, in_flight, strict=True):
        chosen = [one for one in rounds if one.case.parameters["in_flight"] == number]
        for name in dict.fromkeys(one.contestant for one in chosen):
            edges, shares = _beyond(one for one in chosen if one.contestant == name)
            _line(axes, name, edges, shares, marker="")
        axes.set(xscale="log", yscale="log", xlabel="ms")
    panels[0].set_ylabel("took longer than that, %")
    yield from _save(picture, panels, folder, "latency")


def _memory(rounds: list[Round], folder: Path) -> Iterator[Path]:
    """Resident memory against connections."""
    picture, panels = _panels(["user space, without the kernel's"], "Idle connections")
    for name, points in _medians(rounds, USER_MEMORY.name, "connections").items():
        megabytes = [count * value / 1024**2 for count, value in points.items()]
        _line(panels[0], name, list(points), megabytes)
    panels[0].set(xscale="log", yscale="log", xlabel="connections", ylabel="MB")
    yield from _save(picture, panels, folder, "memory")


def draw(rounds: list[Round], folder: Path) -> Iterator[Path]:
    """Draw every picture for which there are rounds; yield the files."""
    folder.mkdir(parents=True, exist_ok=True)
    for scenario, picture in (("fanout", _throughput), ("fanout", _latency), ("idle", _memory)):
        chosen = [one for one in rounds if one.case.scenario == scenario and not one.failure]
        if chosen:
            yield from picture(chosen, folder)
