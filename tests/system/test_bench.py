"""The benchmarks work: every scenario once, at toy size. Counts are asserted, times never."""

import json
import sys

import pytest
from attrs import evolve

from bench.cases import DELIVERIES, P50, Case
from bench.command import main
from bench.cores import share_out
from bench.installing import CURRENT, Unavailable, compiled
from bench.load import Load, credentials
from bench.report import summarize, table, write_json
from bench.roster import CONTESTANTS, FILES, Contestant, Demands
from bench.rounds import Round, Schedule, Track, play, try_out, why_impossible
from bench.scenarios import SCENARIOS
from bench.sizes import FULL, QUICK, TOY
from bench.turn_meter import LONG, Meter, Reader, Turns
from tests.external import require_debian

HERE = ("moorage", "limit", "websockets")
"""The contestants whose packages are those of the tests."""

CASES = [case for scenario in SCENARIOS.values() for case in scenario(TOY)]


@pytest.fixture(scope="module")
def track():
    require_debian("build-essential", "cc")
    compiled("limit", FILES / "limit.c")
    most = max(load.connections for case in CASES for load in case.loads)
    with credentials(most) as secret:
        yield Track(CURRENT, share_out(), 1, secret)


def copies(load: Load) -> int:
    """Return the number of deliveries of one publication."""
    if load.ping:
        return 1
    return (load.subscribers - load.stalled) * load.topics_each // load.topics


def assert_counts(round_: Round) -> None:
    assert round_.failure is None
    assert set(round_.figures) == {figure.name for figure in round_.case.figures}
    for load, seen in zip(round_.case.loads, round_.observations, strict=True):
        result = seen.result
        assert result.retries == 0
        if load.mode == "traffic":
            publishers = load.publishers or load.subscribers
            assert result.publications >= publishers * load.in_flight
            assert result.deliveries == result.publications * copies(load)
            assert sum(count for _, count in result.histogram) == result.publications
        else:
            assert result.publications == 0
        if load.mode == "connect":
            assert sum(count for _, count in result.histogram) == load.connections


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.scenario}: {case.label}")
def test_everything_sent_arrives_everywhere(case: Case, name: str, track: Track) -> None:
    assert_counts(play(case, CONTESTANTS[name], 0, track))


@pytest.mark.parametrize("scenario", ["fanout", "topics", "rooms"])
def test_load_processes_share_the_work(scenario: str, track: Track) -> None:
    case = next(iter(SCENARIOS[scenario](TOY)))
    round_ = play(case, CONTESTANTS["limit"], 0, evolve(track, load_processes=3))
    assert_counts(round_)
    assert len(round_.observations[0].result.cpu) == 3


def test_contestants_take_turns(track: Track) -> None:
    case = next(iter(SCENARIOS["echo"](TOY)))
    entrants = [CONTESTANTS["limit"], CONTESTANTS["websockets"]]
    schedule = Schedule([case], entrants, 2, track)
    played = [one for one in schedule.play() if one is not None]
    assert [(one.contestant, one.number) for one in played] == [
        ("limit", 0), ("websockets", 0), ("limit", 1), ("websockets", 1)
    ]  # fmt: skip
    assert len(schedule) == 4


def broken(command: list[str]) -> Contestant:
    return Contestant("broken", "", lambda *_: command, lambda _: None)


def test_a_contestant_that_cannot_be_had_is_reported_with_the_reason(track: Track) -> None:
    says = broken([sys.executable, "-c", "raise SystemExit('no libuv here')"])
    absent = broken(["/nowhere/at/all"])

    def refuse(_environment: object) -> None:
        raise Unavailable("pip install: no such version")

    whys = [why for _, why in try_out([says, absent, evolve(says, prepare=refuse)], track)]
    assert "no libuv here" in (whys[0] or "")
    assert "/nowhere/at/all" in (whys[1] or "")
    assert whys[2] == "pip install: no such version"


def test_a_contestant_that_failed_does_not_try_the_case_again(track: Track) -> None:
    case = next(iter(SCENARIOS["echo"](TOY)))
    ends_at_once = broken([sys.executable, "-c", "pass"])
    first, second = Schedule([case], [ends_at_once], 2, track).play()
    assert first is not None
    assert "ended" in (first.failure or "")
    assert second is None
    assert "FAILED" in table(case, [first])


def test_a_case_without_descriptors_is_not_run() -> None:
    case = CASES[0]
    assert why_impossible(case, case.descriptors) is None
    assert "open files" in (why_impossible(case, case.descriptors - 1) or "")


def test_every_size_has_every_scenario() -> None:
    for sizes in (FULL, QUICK, TOY):
        cases = [case for scenario in SCENARIOS.values() for case in scenario(sizes)]
        assert {case.scenario for case in cases} == set(SCENARIOS)
        labels = [(case.scenario, case.label) for case in cases]
        assert len(labels) == len(set(labels))


def test_limits_are_raised_only_where_a_scenario_exceeds_them() -> None:
    within = Demands(connections=1_001, connections_per_topic=1_000, jwt_key="k" * 32)
    beyond = Demands(connections=20_000, connections_per_topic=5_000, jwt_key="k" * 32)
    moorage = CONTESTANTS["moorage"]
    assert moorage.command(CURRENT, within)[1:] == ["serve", "--jwt-key", "k" * 32]
    assert moorage.command(CURRENT, beyond)[4:] == [
        "--max-total-connections", "20000", "--max-connections-per-topic", "5000"
    ]  # fmt: skip


def rounds_of(name: str, *rates: float) -> list[Round]:
    case = evolve(CASES[0], figures=(DELIVERIES, P50))
    return [
        Round(case, name, number, {DELIVERIES.name: rate, P50.name: 0.001})
        for number, rate in enumerate(rates)
    ]


def test_the_report_has_medians_spread_and_the_ratio_to_moorage() -> None:
    rounds = [*rounds_of("moorage", 80, 100, 120), *rounds_of("limit", 190, 200, 210)]
    summary = summarize(rounds[:3], (DELIVERIES, P50))
    assert summary.medians == {DELIVERIES.name: 100, P50.name: 0.001}
    assert summary.spread == 0.2
    lines = table(rounds[0].case, rounds).splitlines()
    assert "(3 rounds)" in lines[0]
    assert lines[2].split()[:5] == ["moorage", "100", "±20%", "1.00", "x"]
    assert lines[3].split()[:5] == ["limit", "200", "±5%", "0.50", "x"]


def test_json_keeps_the_raw_rounds_and_who_was_missing(tmp_path) -> None:
    path = tmp_path / "raw.json"
    write_json(path, rounds_of("limit", 1, 2), {"ws": "no node"}, {"cores": "two"})
    kept = json.loads(path.read_text())
    assert [one["figures"][DELIVERIES.name] for one in kept["rounds"]] == [1, 2]
    assert kept["missing"] == {"ws": "no node"}


def test_the_command_runs_and_prints_a_table(track: Track, tmp_path, capsys) -> None:
    path = tmp_path / "raw.json"
    arguments = ["echo", "--toy", "--connections", "2", "--in-flight", "1", "--rounds", "1"]
    others = ["--contestants", "limit", "--environment", "current", "--json", str(path)]
    assert main([*arguments, *others]) == 0
    assert "echo: 2 connections, 1 in flight" in capsys.readouterr().out
    assert len(json.loads(path.read_text())["rounds"]) == 1


def test_the_command_lists_scenarios_and_contestants(capsys) -> None:
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in (*SCENARIOS, *CONTESTANTS))


def test_an_unknown_scenario_is_refused_with_the_known_ones(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["fanuot"])
    assert "fanout" in capsys.readouterr().err


def test_the_longest_turn_is_measured_in_every_case(tmp_path, capsys) -> None:
    path = tmp_path / "turns.json"
    assert main(["turns", "--toy", "--json", str(path)]) == 0
    cases = json.loads(path.read_text())["turns"]
    assert len(cases) == 11
    busy = [name for name in cases if name != "nothing happens"]
    assert all(cases[name]["longest"] > 0 and cases[name]["turns"] > 0 for name in busy)
    printed = capsys.readouterr().out
    assert all(name in printed for name in cases)


def test_the_meter_begins_anew_when_it_is_asked_to(tmp_path) -> None:
    reader = Reader.create(tmp_path / "turns")
    meter = Meter(tmp_path / "turns")

    def turn(seconds: float) -> None:
        meter.after_io_wait(0)
        meter._began -= seconds
        meter.before_io_wait(0)

    turn(9.0)
    reader.begin()
    assert reader.read() == Turns()
    turn(LONG * 2)
    turn(LONG / 2)
    found = reader.read()
    assert LONG * 2 <= found.longest < 9.0
    assert (found.long, found.turns) == (1, 2)
