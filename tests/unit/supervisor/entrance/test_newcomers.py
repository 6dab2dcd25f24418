"""Newcomers: who gives way when there are as many as there may be, and nobody before that."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from moorage.supervisor.entrance.newcomers import Newcomer, Newcomers


class Crowd:
    """Newcomers whose names tell who gave way."""

    def __init__(self, limit: int) -> None:
        self.newcomers = Newcomers(limit)
        self.gone: list[str] = []

    def enter(self, name: str, source: str) -> Newcomer | None:
        newcomer = Newcomer(source, lambda: self.gone.append(name))
        return newcomer if self.newcomers.enter(newcomer) else None


def test_below_the_limit_nobody_gives_way():
    crowd = Crowd(100)
    for number in range(100):
        assert crowd.enter(str(number), "proxy")
    assert crowd.gone == []
    assert len(crowd.newcomers) == 100


def test_at_the_limit_the_oldest_of_the_source_that_has_most_gives_way():
    crowd = Crowd(4)
    for name, source in [("a", "one"), ("b", "many"), ("c", "many"), ("d", "many")]:
        crowd.enter(name, source)
    crowd.enter("e", "late")
    assert crowd.gone == ["b"]
    crowd.enter("f", "late")
    assert crowd.gone == ["b", "c"]
    assert (len(crowd.newcomers), crowd.newcomers.gave_way) == (4, 2)


def test_one_source_that_fills_all_pushes_out_its_own():
    crowd = Crowd(10)
    crowd.enter("legitimate", "one")
    for number in range(1000):
        crowd.enter(str(number), "flood")
    assert "legitimate" not in crowd.gone
    assert len(crowd.newcomers) == 10


def test_who_is_busy_does_not_give_way_and_is_counted():
    crowd = Crowd(2)
    busy = crowd.enter("busy", "a")
    crowd.newcomers.note_busy(busy)
    crowd.enter("silent", "a")
    assert crowd.enter("next", "b")
    assert crowd.gone == ["silent"]


def test_if_all_are_busy_a_newcomer_is_turned_away():
    crowd = Crowd(2)
    for name in ("one", "two"):
        crowd.newcomers.note_busy(crowd.enter(name, "a"))
    assert crowd.enter("late", "b") is None
    assert (len(crowd.newcomers), crowd.gone) == (2, [])


def test_who_is_silent_again_waits_anew_under_the_source_that_it_has_then():
    crowd = Crowd(3)
    first = crowd.enter("first", "proxy")
    crowd.enter("second", "proxy")
    crowd.newcomers.note_busy(first)
    first.source = "client"
    crowd.newcomers.note_silent(first)
    crowd.enter("third", "proxy")
    crowd.enter("fourth", "other")
    assert crowd.gone == ["second"]


def test_who_gave_way_has_left_already():
    crowd = Crowd(1)
    first = crowd.enter("first", "a")
    crowd.enter("second", "a")
    assert first.gave_way
    crowd.newcomers.leave(first)
    crowd.newcomers.note_silent(first)
    assert len(crowd.newcomers) == 1


_steps = st.lists(st.tuples(st.sampled_from("ebsl"), st.integers(0, 9), st.sampled_from("xyz")))


@given(_steps)
def test_however_they_come_and_go_the_count_is_that_of_a_naive_model(steps):
    newcomers = Newcomers(4)
    inside: dict[Newcomer, bool] = {}  # and whether it is silent
    for step, number, source in steps:
        chosen = list(inside)[number % len(inside)] if inside else None
        if step == "e":
            newcomer = Newcomer(source, lambda: None)
            silent = [each for each in inside if inside[each]]
            if len(inside) == 4 and silent:
                most = max(sum(each.source == name for each in silent) for name in "xyz")
                assert newcomers.enter(newcomer)
                (gone,) = (each for each in inside if each.gave_way)
                assert sum(each.source == gone.source for each in silent) == most
                del inside[gone]
            else:
                assert newcomers.enter(newcomer) == (len(inside) < 4)
            if newcomer.entered:
                inside[newcomer] = True
        elif chosen is not None and step == "b":
            newcomers.note_busy(chosen)
            inside[chosen] = False
        elif chosen is not None and step == "s":
            newcomers.note_silent(chosen)
            inside[chosen] = True
        elif chosen is not None:
            newcomers.leave(chosen)
            del inside[chosen]
        assert len(newcomers) == len(inside)
