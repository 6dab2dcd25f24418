"""The command line of `python -m bench`."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from . import turns
from .cases import Case
from .cores import share_out
from .installing import CURRENT, Unavailable, own_environment
from .load import credentials
from .report import machine, table, write_json
from .roster import CONTESTANTS, Contestant
from .rounds import Round, Schedule, Track, raise_descriptor_limit, try_out, why_impossible
from .scenarios import SCENARIOS
from .sizes import FULL, QUICK, TOY, Sizes


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part.replace("_", "")) for part in text.split(","))


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure Moorage and its peers doing the same work. See bench/README.md. "
        "`turns` is a benchmark of its own: see `python -m bench turns --help`.",
    )
    add = parser.add_argument
    add("scenarios", nargs="*", metavar="SCENARIO", help=f"{', '.join(SCENARIOS)}; default: all")
    add("-c", "--contestants", metavar="A,B", help="default: all; `--list` names them")
    add("-r", "--rounds", type=int, default=5, help="of each contestant and case (default: 5)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="only the sizes of the goals, and short")
    size.add_argument("--toy", action="store_true", help="a test that all of it works, in seconds")
    add("--seconds", type=float, help="length of a measurement")
    add("--subscribers", type=_numbers, metavar="N,N", help="for fanout")
    add("--in-flight", type=_numbers, metavar="N,N", help="for fanout and echo")
    add("--payload", type=_numbers, metavar="N,N", help="bytes, for fanout")
    add("--connections", type=_numbers, metavar="N,N", help="for echo and idle")
    add("--idle-seconds", type=float, help="length of the measurement of idle connections")
    add("--load-processes", type=int, metavar="N", help="default: one for each of the load's cores")
    add("--environment", choices=("own", "current"), default="own",
        help="packages of the Python contestants: their own in bench/.env, installed on demand "
             "(default), or those of the interpreter that runs this")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="write the figures of every round to a file")
    add("--plot", type=Path, metavar="FOLDER", help="draw pictures, as PNG and SVG")
    add("--list", action="store_true", help="list scenarios and contestants, and end")
    chosen = parser.parse_args(argv)
    for name in chosen.scenarios:
        if name not in SCENARIOS:
            parser.error(f"no scenario {name!r}; there are {', '.join(SCENARIOS)}")
    for name in (chosen.contestants or "").split(","):
        if name and name not in CONTESTANTS:
            parser.error(f"no contestant {name!r}; there are {', '.join(CONTESTANTS)}")
    if chosen.rounds < 1:
        parser.error("--rounds is at least 1")
    return chosen


def _sizes(chosen: argparse.Namespace) -> Sizes:
    sizes = TOY if chosen.toy else QUICK if chosen.quick else FULL
    given = {
        "seconds": chosen.seconds,
        "fanout_subscribers": chosen.subscribers,
        "fanout_in_flight": chosen.in_flight,
        "echo_in_flight": chosen.in_flight,
        "fanout_payload": chosen.payload,
        "echo_connections": chosen.connections,
        "idle_connections": chosen.connections,
        "idle_seconds": chosen.idle_seconds,
    }
    changed = {name: value for name, value in given.items() if value is not None}
    if chosen.subscribers or chosen.payload:  # sizes that are named run in all combinations
        changed["fanout_reference"] = None
    return attrs.evolve(sizes, **changed)


def _contestants(chosen: argparse.Namespace) -> list[Contestant]:
    if not chosen.contestants:
        return list(CONTESTANTS.values())
    # a contestant that is named takes part in every scenario
    named = chosen.contestants.split(",")
    return [attrs.evolve(CONTESTANTS[name], scenarios=frozenset()) for name in named if name]


def _print_list() -> None:
    print("scenarios:")
    for name, scenario in SCENARIOS.items():
        print(f"  {name:17}{(scenario.__doc__ or '').splitlines()[0]}")
    print("contestants:")
    for name, contestant in CONTESTANTS.items():
        print(f"  {name:17}{contestant.about}")


def _with_progress(schedule: Schedule) -> Iterator[Round | None]:
    """Play all rounds, with a progress bar on standard error if that is a terminal."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # tables above the bar; into a file if it is one
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=len(schedule))
        for one in schedule.play():
            if one is not None:
                bar.update(task, description=f"{one.case.scenario} {one.contestant}")
            bar.advance(task)
            yield one


def _play(schedule: Schedule) -> Iterator[tuple[Case, list[Round]]]:
    """Yield each case with its rounds, as soon as they are over."""
    case: Case | None = None
    rounds: list[Round] = []
    for one in _with_progress(schedule):
        if one is None:
            continue
        if case is not None and one.case is not case:
            yield case, rounds
            rounds = []
        case = one.case
        rounds.append(one)
    if case is not None:
        yield case, rounds


def _possible(cases: Iterable[Case], descriptors: int) -> list[Case]:
    possible = []
    for case in cases:
        why = why_impossible(case, descriptors)
        if why is None:
            possible.append(case)
        else:
            print(f"NOT RUN  {case.scenario}: {case.label}: {why}")
    return possible


def main(argv: list[str] | None = None) -> int:
    """Do what the arguments say; return the exit status: 1 if anything failed."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["turns"]:
        return turns.main(words[1:])
    chosen = _arguments(words)
    if chosen.list:
        _print_list()
        return 0
    cores, sizes = share_out(), _sizes(chosen)
    cases = [case for name in chosen.scenarios or SCENARIOS for case in SCENARIOS[name](sizes)]
    about = machine(cores.note)
    print(" · ".join(str(value) for value in about.values()))
    cases = _possible(cases, raise_descriptor_limit())
    environment = CURRENT if chosen.environment == "current" else own_environment()
    most = max((load.connections for case in cases for load in case.loads), default=1)
    missing: dict[str, str] = {}
    everything: list[Round] = []
    with credentials(most) as secret:
        processes = chosen.load_processes or len(cores.load)
        track = Track(environment, cores, processes, secret)
        entrants = []
        for contestant, why in try_out(_contestants(chosen), track):
            if why is None:
                entrants.append(contestant)
            else:
                missing[contestant.name] = why
                print(f"MISSING  {contestant.name}: {why}")
        try:
            for case, rounds in _play(Schedule(cases, entrants, chosen.rounds, track)):
                everything += rounds
                print("\n" + table(case, rounds), flush=True)
        except Unavailable as error:  # the load generator itself
            print(f"cannot measure anything: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("interrupted; finished rounds are kept", file=sys.stderr)
    if chosen.json:
        write_json(chosen.json, everything, missing, about)
    if chosen.plot:
        from .plots import draw  # noqa: PLC0415 -- matplotlib is needed, and loaded, only here

        for path in draw(everything, chosen.plot):
            print(f"drawn: {path}")
    return 1 if any(one.failure for one in everything) else 0
