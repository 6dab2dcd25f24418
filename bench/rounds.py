"""The rounds: contestants take turns, A B C A B C, each time with a new server."""

import resource
import time
from collections.abc import Iterable, Iterator
from typing import Any

import attrs
from attrs import define, field, frozen

from .cases import Case, Observation
from .cores import Cores
from .installing import Environment, Unavailable
from .load import Credentials, Load, LoadFailed, connected
from .roster import Contestant, Demands
from .server import KernelMemory, Server, ServerFailed, running


@frozen
class Round:
    """One run of one case by one contestant."""

    case: Case
    contestant: str
    number: int
    figures: dict[str, float] = field(factory=dict)
    observations: tuple[Observation, ...] = ()
    failure: str | None = None

    @property
    def load_cpu(self) -> float:
        """The busiest load process's share of its core."""
        return max((max(one.result.cpu) for one in self.observations), default=0.0)

    @property
    def server_cpu(self) -> float:
        """The server's share of its core."""
        return max((one.server_cpu for one in self.observations), default=0.0)


@frozen
class Track:
    """The conditions that all rounds have in common."""

    environment: Environment
    cores: Cores
    load_processes: int
    credentials: Credentials


def raise_descriptor_limit() -> int:
    """Raise the limit of open files as far as this user may; return the new limit.

    Servers and load, which are started afterwards, inherit it.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def why_impossible(case: Case, descriptors: int) -> str | None:
    """Return why a case cannot be run with so many descriptors, None if it can."""
    if case.descriptors > descriptors:
        return f"needs {case.descriptors:,} open files, and the hard limit is {descriptors:,}"
    return None


def try_out(
    contestants: Iterable[Contestant], track: Track
) -> Iterator[tuple[Contestant, str | None]]:
    """Install and start each once; yield it with the reason why that failed, or None."""
    for contestant in contestants:
        try:
            contestant.prepare(track.environment)
            demands = Demands(jwt_key=track.credentials.key)
            with running(contestant, track.environment, demands, track.cores.server):
                pass
        except (Unavailable, ServerFailed, OSError) as error:
            yield contestant, str(error)
        else:
            yield contestant, None


def _observe(server: Server, load: Load, case: Case, dialect: str, track: Track) -> Observation:
    """Run one load against one server, and measure both."""
    resident_before, kernel_before = server.resident(), KernelMemory.now()
    with connected(
        load,
        port=server.port,
        dialect=dialect,
        tokens=track.credentials.tokens,
        processes=track.load_processes,
        cores=track.cores.load,
    ) as generator:
        time.sleep(case.settle)
        resident, kernel = server.resident(), KernelMemory.now()
        cpu, since = server.processor_seconds(), time.monotonic()
        result = generator.finish()
        seconds = time.monotonic() - since
        return Observation(
            result=result,
            seconds=seconds,
            server_cpu=(server.processor_seconds() - cpu) / seconds,
            resident_before=resident_before,
            resident=resident,
            peak=server.peak(),
            kernel_before=kernel_before,
            kernel=kernel,
        )


def play(case: Case, contestant: Contestant, number: int, track: Track) -> Round:
    """Run one contestant once; an error becomes the round's `failure`."""
    demands = attrs.evolve(case.demands, jwt_key=track.credentials.key)
    observations: list[Observation] = []
    words = ""
    try:
        for load in case.loads:
            with running(contestant, track.environment, demands, track.cores.server) as server:
                try:
                    observations.append(_observe(server, load, case, contestant.dialect, track))
                except (LoadFailed, OSError):
                    words = server.last_words()
                    raise
    except (Unavailable, ServerFailed, LoadFailed, OSError) as error:
        failure = f"{error}" + (f" [{words}]" if words else "")
        return Round(case, contestant.name, number, failure=failure)
    figures = case.read(case, observations)
    return Round(case, contestant.name, number, figures, tuple(observations))


@define
class Schedule:
    """The order of all rounds; a contestant that failed a case does not try it again."""

    cases: list[Case]
    contestants: list[Contestant]
    rounds: int
    track: Track
    _failed: set[tuple[str, str]] = field(factory=set)

    def entrants(self, case: Case) -> list[Contestant]:
        """Return the contestants that take part in a case."""
        return [
            each
            for each in self.contestants
            if not each.scenarios or case.scenario in each.scenarios
        ]

    def rounds_of(self, case: Case) -> int:
        """Return the number of rounds of a case."""
        return min(self.rounds, case.rounds_at_most)

    def __len__(self) -> int:
        return sum(self.rounds_of(case) * len(self.entrants(case)) for case in self.cases)

    def play(self) -> Iterator[Round | None]:
        """Yield each round when it is over; None for one that was not tried again."""
        for case in self.cases:
            for number in range(self.rounds_of(case)):
                for contestant in self.entrants(case):
                    key = (case.scenario + case.label, contestant.name)
                    if key in self._failed:
                        yield None
                        continue
                    round_ = play(case, contestant, number, self.track)
                    if round_.failure:
                        self._failed.add(key)
                    yield round_


def as_json(round_: Round) -> dict[str, Any]:
    """Return a round in the form that `--json` writes."""
    return {
        "scenario": round_.case.scenario,
        "case": round_.case.label,
        "parameters": dict(round_.case.parameters),
        "contestant": round_.contestant,
        "round": round_.number,
        "figures": round_.figures,
        "failure": round_.failure,
        "server_cpu": round_.server_cpu,
        "load_cpu": round_.load_cpu,
        "observations": [attrs.asdict(one) for one in round_.observations],
    }
