"""Writes docs/reference.md out of the public names: run it after changing one or its docstring.

The names are those of `moorage` and `moorage.client`; what is said of each is the first line of its
docstring, or the comment at a field. With --check nothing is written: a difference, or a name that
nothing is said of, is an error, and `make docs` and a test look for it.
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, cast

import attrs

import moorage
import moorage.client

PAGE = Path(__file__).resolve().parent / "reference.md"

INTRODUCTION = """\
# Reference of the public names

<!-- Written by docs/public_reference.py out of the docstrings. Change them there. -->

A program imports these names from `moorage` and `moorage.client`, and needs no others. Each name
is brought from its module when it is first used. The names of `moorage.protocol`, `moorage.actors`
and `moorage.supervisor` may change with every version. In Python, `help(moorage.open_client)`
prints the whole docstring.

`moorage.__version__` is the version, as a text.
"""

# The order of the page: heading, where the names are explained, and the names.
GROUPS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "The server",
        "Explained in [embedding.md](embedding.md); the settings in [settings.md](settings.md).",
        (
            *("App", "Settings", "TopicRule", "ConfigurationError", "open_supervisor"),
            *("Supervisor", "ServerState", "ResumeRefused", "BlockingSupervisor"),
            *("configure_logging", "mint_token", "raise_descriptor_limit"),
            *("Statistics", "Traffic"),
        ),
    ),
    (
        "Connections of the server",
        "Explained in [embedding.md](embedding.md#endpoints).",
        (
            *("Session", "Context", "RawConnection", "Endpoint", "UpgradeRequest", "Identity"),
            *("Subscription", "ConnectionState", "OverloadPolicy", "CloseCause"),
            *("Permissions", "Transport"),
        ),
    ),
    (
        "Messages and errors",
        "Explained in [protocol.md](protocol.md).",
        (
            *("Envelope", "CloseCode", "ErrorCode", "MoorageError", "ProtocolError"),
            *("LocalProtocolError", "RemoteProtocolError"),
        ),
    ),
    (
        "The client",
        "Explained in [embedding.md](embedding.md#the-python-client).",
        (
            *("open_client", "Client", "ClientSubscription", "ClientState", "ClientStatistics"),
            *("Backoff", "ConnectError", "ConnectionRefused", "ConnectionLost", "RequestError"),
            *("ClientClosed",),
        ),
    ),
)


@attrs.frozen
class Member:
    """One or several public attributes of a class, and what is said of them."""

    names: tuple[str, ...]
    # Empty: nothing is said, which is an error.
    meaning: str


def public_names() -> dict[str, ModuleType]:
    """Return every public name, and the module that programs import it from."""
    names = dict.fromkeys(moorage.client.__all__, moorage.client)
    # `open_client` and `Client` are in both, and shown as the client's.
    return {name: moorage for name in moorage.__all__ if name != "__version__"} | names


def unexplained() -> list[str]:
    """Return the public names, and public attributes of them, of which nothing is said."""
    found: list[str] = []
    for name, module in public_names().items():
        value = getattr(module, name)
        if not _own_summary(value):
            found.append(name)
        if isinstance(value, type):
            for member in members(value):
                if not member.meaning:
                    found += [f"{name}.{each}" for each in member.names]
    return found


def ungrouped() -> list[str]:
    """Return the names that `GROUPS` lacks, has twice, or has without their being public."""
    grouped = [name for _, _, names in GROUPS for name in names]
    twice = {name for name in grouped if grouped.count(name) > 1}
    return sorted(twice | (set(grouped) ^ set(public_names())))


def members(kind: type) -> list[Member]:
    """Return the public attributes of a class, inherited ones of Moorage's own classes included."""
    if kind is moorage.Settings:
        return []  # docs/settings.md has them, with all that is known of each
    found: list[Member] = []
    seen: set[str] = set()
    for base in kind.__mro__:
        if not base.__module__.startswith("moorage."):
            continue
        for member in (*_fields(base), *_methods(base)):
            if names := tuple(name for name in member.names if name not in seen):
                seen.update(names)
                found.append(Member(names, member.meaning))
    return found


def _methods(kind: type) -> Iterator[Member]:
    for name, value in vars(kind).items():
        if name.startswith("_"):
            continue
        if isinstance(value, property):
            yield Member((name,), _summary(value.__doc__))
        elif isinstance(value, FunctionType | classmethod | staticmethod):
            function = getattr(kind, name)
            shown = f"{name}({_parameters(function)})"
            yield Member((shown,), _summary(function.__doc__))


def _fields(kind: type) -> Iterator[Member]:
    """Yield the fields of a class: those that it declares, and those that its `__init__` sets."""
    lines = inspect.getsource(kind).splitlines()
    (tree,) = ast.parse("\n".join(lines)).body  # no public class is inside another thing
    docstring = kind.__doc__ or ""
    rows: list[tuple[list[str], str, int]] = []
    for name, node in _assignments(tree):
        metadata = attrs.fields_dict(kind)[name].metadata if attrs.has(kind) else {}
        said = metadata["about"].help if "about" in metadata else _comment(lines, node)
        # Of fields one below the other, the first one's comment is about all of them.
        said = said or _sentence(docstring, name)
        if not said and rows and rows[-1][2] == node.lineno - 1:
            rows[-1][0].append(name)
            rows[-1] = (rows[-1][0], rows[-1][1], node.end_lineno or node.lineno)
        else:
            rows.append(([name], said, node.end_lineno or node.lineno))
    for names, said, _ in rows:
        yield Member(tuple(names), said)


def _assignments(tree: ast.stmt) -> Iterator[tuple[str, ast.stmt]]:
    for node in cast("ast.ClassDef", tree).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            if not node.target.id.startswith("_"):
                yield node.target.id, node
        elif isinstance(node, ast.FunctionDef) and node.name == "__init__":
            for inner in ast.walk(node):
                match inner:
                    case ast.Assign(targets=targets):
                        pass
                    case ast.AnnAssign(target=target):
                        targets = [target]
                    case _:
                        continue
                for target in targets:
                    match target:
                        case ast.Attribute(value=ast.Name(id="self"), attr=name) if name[0] != "_":
                            yield name, inner
                        case _:
                            pass


def _comment(lines: list[str], node: ast.stmt) -> str:
    """Return the comment at the end of a field's line, or the lines of it above."""
    _, mark, behind = lines[(node.end_lineno or node.lineno) - 1].partition("  # ")
    if mark and not behind.startswith(("noqa", "pyright")):
        return behind[0].upper() + behind[1:]
    above: list[str] = []
    for line in reversed(lines[: node.lineno - 1]):
        if not line.strip().startswith("# "):
            break
        above.append(line.strip().removeprefix("# "))
    return " ".join(reversed(above))


def _sentence(docstring: str, name: str) -> str:
    """Return the first sentence of a docstring that speaks of this field."""
    sentences = re.split(r"(?<=[.:])\s+(?=[`A-Z])", " ".join(docstring.split()))
    return next((each for each in sentences if f"`{name}`" in each), "")


def _own_summary(value: Any) -> str:
    """Return what is said of a name; a class that only inherits its docstring has none."""
    return _summary(vars(value).get("__doc__") if isinstance(value, type) else value.__doc__)


def _summary(docstring: str | None) -> str:
    return inspect.cleandoc(docstring or "").partition("\n")[0]


def _parameters(function: Any) -> str:
    shown: list[str] = []
    keywords = False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is parameter.VAR_POSITIONAL:
            shown.append(f"*{parameter.name}")
            keywords = True
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not keywords:
            shown.append("*")
            keywords = True
        shown.append(parameter.name)
    return ", ".join(shown)


def page() -> str:
    """Return the whole page."""
    return "\n".join((INTRODUCTION, *_groups())).rstrip() + "\n"


def _groups() -> Iterator[str]:
    modules = public_names()
    for heading, explained, names in GROUPS:
        yield f"## {heading}\n"
        yield f"{explained}\n"
        for name in names:
            value = getattr(modules[name], name)
            called = f"{name}({_parameters(value)})" if isinstance(value, FunctionType) else name
            yield f"### {modules[name].__name__}.{name}\n"
            if called != name:
                yield f"`{called}`\n"
            yield f"{_own_summary(value)}\n"
            if isinstance(value, type) and issubclass(value, Enum):
                values = (f"`{each.name}` ({each.value})" for each in value)
                yield f"Its values: {', '.join(values)}.\n"
            if isinstance(value, type) and (rows := members(value)):
                yield "| | |"
                yield "|---|---|"
                for row in rows:
                    shown = ", ".join(f"`{each}`" for each in row.names)
                    yield f"| {shown} | {row.meaning.replace('|', chr(92) + '|')} |"
                yield ""


def main(arguments: list[str]) -> int:
    """Write the page, or with --check compare it; the exit status is 1 if anything is wrong."""
    wrong = [f"{name}: has no docstring or comment" for name in unexplained()]
    wrong += [
        f"{name}: is not exactly once in GROUPS of {Path(__file__).name}" for name in ungrouped()
    ]
    if not wrong and arguments == ["--check"]:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page():
            wrong.append(
                f"{PAGE.name} is out of date: run .venv/bin/python docs/{Path(__file__).name}"
            )
    elif not wrong:
        PAGE.write_text(page(), encoding="utf-8")
        print(f"{PAGE.name} is written anew", file=sys.stderr)
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
