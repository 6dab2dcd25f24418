"""`import moorage`: every public name is there, and comes from one module."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

import moorage
import moorage.client

ROOT = Path(__file__).resolve().parents[3]
FACE = ROOT / "moorage" / "__init__.py"


def typed_imports() -> dict[str, str]:
    """The names that type checkers find in the face, with the module that each comes from."""
    (block,) = (node for node in ast.parse(FACE.read_text()).body if isinstance(node, ast.If))
    return {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


@pytest.mark.parametrize("name", moorage.__all__)
def test_every_public_name_is_there(name):
    assert getattr(moorage, name) is not None


@pytest.mark.parametrize("name", moorage.client.__all__)
def test_every_public_name_of_the_client_is_there(name):
    assert getattr(moorage.client, name) is not None


def test_type_checkers_see_the_same_names_from_the_same_modules():
    assert typed_imports() == moorage._MODULES
    assert {*moorage._MODULES, "__version__"} == set(moorage.__all__)


def test_the_names_are_sorted():
    assert moorage.__all__ == sorted(moorage.__all__)
    assert moorage.client.__all__ == sorted(moorage.client.__all__)


def test_a_name_is_the_one_of_its_module():
    assert moorage.Envelope is import_module("moorage.protocol.messages.envelope").Envelope
    assert moorage.open_client is moorage.client.open_client


def test_a_name_is_looked_up_once():
    assert moorage.CloseCode is vars(moorage)["CloseCode"]


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'moorage' has no attribute 'Marina'"):
        _ = moorage.Marina


def test_the_version_is_the_one_of_pyproject():
    from moorage.protocol.version import VERSION

    assert moorage.__version__ == VERSION
