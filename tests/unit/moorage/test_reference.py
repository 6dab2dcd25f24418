"""docs/reference.md has every public name, and every public name says what it is."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location(
        "public_reference", ROOT / "docs" / "public_reference.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_and_its_attributes_have_a_docstring_or_a_comment(reference):
    assert reference.unexplained() == []


def test_every_public_name_is_in_the_reference(reference):
    assert reference.ungrouped() == []
    page = reference.PAGE.read_text(encoding="utf-8")
    missing = [
        name
        for name, module in reference.public_names().items()
        if f"### {module.__name__}.{name}\n" not in page
    ]
    assert missing == []


def test_the_page_is_current(reference):
    hint = "run .venv/bin/python docs/public_reference.py"
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), hint


def test_a_class_without_a_docstring_of_its_own_is_found(reference):
    class Inherits(KeyError):
        pass

    assert reference._own_summary(KeyError)
    assert not reference._own_summary(Inherits)
