"""docs/control.md names the commands, and the fields of their requests and answers, as they are."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest

from moorage.protocol.admin import answers
from moorage.protocol.admin.commands import COMMANDS

PAGE = Path(__file__).resolve().parents[4] / "docs" / "control.md"
FIELD = re.compile(r"`([a-z_]+)`")
IN_BRACKETS = re.compile(r"\([^()]*\)")

ENTRIES = {"connections": answers.ConnectionSummary, "topics": answers.TopicSummary}
"""The commands that answer with a list, whose row names the fields of each entry too."""


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the first table below a line that begins like this."""
    below = PAGE.read_text(encoding="utf-8").partition(f"\n{heading}")[2]
    table = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)[0]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines()[2:]]


def documented() -> dict[str, tuple[str, str]]:
    """Return the cells about request and answer, by command."""
    return {
        name: (request, answer)
        for commands, request, answer in rows("## Commands")
        for name in FIELD.findall(commands)
    }


def fields(text: str) -> list[str]:
    """Return the fields that a text lists: before its first full stop, and not in brackets."""
    return FIELD.findall(IN_BRACKETS.sub("", text).partition(". ")[0])


def names(kind: type) -> list[str]:
    return sorted(attrs.fields_dict(kind))


def test_the_page_has_every_command():
    assert set(documented()) == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_the_fields_of_a_request_are_those_of_its_class(command):
    request, _ = documented()[command.name]
    assert sorted(fields(request)) == names(command.request)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_the_fields_in_italics_are_those_that_may_be_left_out(command):
    request, _ = documented()[command.name]
    required = {a.name for a in attrs.fields(command.request) if a.default is attrs.NOTHING}
    italics = set(re.findall(r"\*`([a-z_]+)`\*", IN_BRACKETS.sub("", request)))
    one_of = re.search(r"one of ([^;]*)", IN_BRACKETS.sub("", request))
    alternatives = set(FIELD.findall(one_of[1])) if one_of else set()
    assert italics | alternatives == set(attrs.fields_dict(command.request)) - required
    assert italics.isdisjoint(alternatives)


@pytest.mark.parametrize("command", [c for c in COMMANDS.values() if c.name != "stats"])
def test_the_fields_of_an_answer_are_those_of_its_class(command):
    _, answer = documented()[command.name]
    whole, _, entry = IN_BRACKETS.sub("", answer).partition("; of each: ")
    assert sorted(fields(whole)) == names(command.answer)
    assert bool(entry) == (command.name in ENTRIES)
    if entry:
        assert sorted(fields(entry)) == names(ENTRIES[command.name])


def test_the_fields_of_stats_are_those_of_its_classes():
    found = {about: fields(cell) for about, cell in rows("`stats` has")}
    parts = {"`rates`": answers.Rates, "`cleanup`": answers.CleanupStats}
    for about, kind in parts.items():
        assert sorted(found.pop(about)) == names(kind)
    whole = [name for cell in found.values() for name in cell]
    assert sorted([*whole, "rates", "cleanup"]) == names(answers.Stats)


def test_the_headroom_of_health_has_the_fields_of_its_class():
    _, answer = documented()["health"]
    (headroom,) = re.findall(r"\((`limit`[^()]*) each\)", answer)
    assert sorted(FIELD.findall(headroom)) == names(answers.Headroom)
