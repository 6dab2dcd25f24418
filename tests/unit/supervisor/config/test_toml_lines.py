"""The lines of the keys in a TOML text."""

import tomllib

import pytest

from moorage.supervisor.config.toml_lines import key_lines

RULES = '[t."a.b"]\n\nx = 1\n[t.c]\nx = 2'
INLINE = "t = { a = { x = 1 },\tb = { y = [\n1] } }\nz = 1"
LIST = "hosts = [\n'null',\n]\n  port   = -1"
DOTTED = "[t]\na.x = 1\na.y = '''\n'''\nb.z = 1"


@pytest.mark.parametrize(
    ("text", "path", "line"),
    [
        ('host = """\nport = 1\n"""\nport = -1', "port", 4),
        (LIST, "port", 4),
        (LIST, "hosts", 1),
        ('# port = 1\n"port" = -1', "port", 2),
        ("'port' = -1", "port", 1),
        ("port.x = -1", "port", 1),
        ("[[port]]\nx = 1\n[[port]]", "port", 1),
        ("[ port ]\nport = 1", "port", 1),
        ("[ port ]\nport = 1", "port port", 2),
        ("path = '/port = 1'\r\nport = -1", "port", 2),
        (RULES, "t", 1),
        (RULES, "t a.b", 1),
        (RULES, "t a.b x", 3),
        (RULES, "t c", 4),
        (RULES, "t c x", 5),
        (INLINE, "t b y", 1),
        (INLINE, "z", 3),
        (DOTTED, "t a y", 3),
        (DOTTED, "t b z", 5),
    ],
)
def test_a_key_has_the_line_on_which_it_first_stands(text, path, line):
    tomllib.loads(text)
    assert key_lines(text)[tuple(path.split())] == line


def test_a_text_without_keys_has_no_lines():
    assert key_lines("") == {}
    assert key_lines("# port = 1\n\n") == {}
