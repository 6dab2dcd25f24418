"""Medians, spread and ratios, as a table for a terminal and a log."""

import json
import platform
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from bench.cases import Case, Figure
from bench.rounds import Round, as_json

BUSY = 0.95
"""A load process that is busier than this may itself have been the limit."""


@frozen
class Summary:
    """A summary of one contestant's rounds of one case."""

    contestant: str
    medians: Mapping[str, float]
    spread: float
    """Half the distance between the worst and the best round, as a share of the median."""
    server_cpu: float
    load_cpu: float
    failure: str | None = None


def summarize(rounds: Iterable[Round], figures: tuple[Figure, ...]) -> Summary:
    """Summarize the rounds that one contestant played of one case."""
    played = list(rounds)
    for one in played:
        if one.failure:
            return Summary(one.contestant, {}, 0, 0, 0, one.failure)
    medians = {
        figure.name: statistics.median(one.figures[figure.name] for one in played)
        for figure in figures
    }
    main = [one.figures[figures[0].name] for one in played]
    middle = medians[figures[0].name]
    return Summary(
        played[0].contestant,
        medians,
        (max(main) - min(main)) / 2 / middle if middle else 0.0,
        statistics.median(one.server_cpu for one in played),
        max(one.load_cpu for one in played),
    )


def _shown(value: float, figure: Figure) -> str:
    scaled = value * figure.scale
    return f"{scaled:,.{figure.digits}f}"


def _ratio(summary: Summary, moorage: Summary | None, figure: Figure) -> str:
    """Return how many times better Moorage is than this one, by the main figure."""
    if moorage is None or moorage.failure or summary.failure:
        return "-"
    own, other = moorage.medians[figure.name], summary.medians[figure.name]
    if not own or not other or own < 0 or other < 0:
        return "-"
    return f"{other / own if figure.less_is_better else own / other:.2f} x"


def table(case: Case, rounds: list[Round]) -> str:
    """Return the table of one case: one line for each contestant, in the order of their entry."""
    names = list(dict.fromkeys(one.contestant for one in rounds))
    summaries = [
        summarize((one for one in rounds if one.contestant == name), case.figures) for name in names
    ]
    moorage = next((one for one in summaries if one.contestant == "moorage"), None)
    main = case.figures[0]
    heads = [figure.name for figure in case.figures]
    header = ["", heads[0], "spread", "moorage is", *heads[1:], "server", "load"]
    lines, failures = [header], []
    for one in summaries:
        if one.failure:
            failures.append(f"  {one.contestant}: FAILED: {one.failure}")
            continue
        shown = [_shown(one.medians[figure.name], figure) for figure in case.figures]
        load = f"{one.load_cpu:.0%}" + ("!" if one.load_cpu > BUSY else "")
        better = _ratio(one, moorage, main)
        own = [one.contestant, shown[0], f"±{one.spread:.0%}", better]
        lines.append([*own, *shown[1:], f"{one.server_cpu:.0%}", load])
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    rows = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    played = max(one.number for one in rounds) + 1
    title = f"{case.scenario}: {case.label}  ({played} round{'s' if played > 1 else ''})"
    return "\n".join([title, *("  " + row.rstrip() for row in rows), *failures])


def machine(cores_note: str) -> dict[str, Any]:
    """Describe the machine."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "processor": model,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cores": cores_note,
    }


def write_json(
    path: Path, rounds: Iterable[Round], missing: Mapping[str, str], about: Mapping[str, Any]
) -> None:
    """Write every round to a file, with the missing contestants and the machine."""
    kept = {"machine": about, "missing": missing, "rounds": [as_json(one) for one in rounds]}
    path.write_text(json.dumps(kept, indent=1) + "\n")
