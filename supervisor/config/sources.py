"""The sources of the settings: flags before variables before a TOML file before defaults.

Every value keeps its source with it, so that an error can name the flag, the variable, or the file
and line to mend, and `moorage config show` can say where each value comes from. All errors are
collected before any is reported, so that a configuration can be mended in one go.
"""

import difflib
import json
import re
import tomllib
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeGuard, cast

import attrs

from ...protocol.errors import MoorageError
from .kubernetes import service_variables
from .settings import Settings, about, validator
from .toml_lines import KeyPath, key_lines
from .topic_rules import TopicRule, read_topic_rules
from .validators import ConfigurationError, shown

PREFIX = "MOORAGE_"
# Variables that have the prefix and are not settings: the command itself reads them.
COMMAND_VARIABLES = ("MOORAGE_APP", "MOORAGE_CONFIG", "MOORAGE_TOKEN")
DEFAULT = "default"

Kind = Literal["text", "whole number", "number", "flag", "path", "texts", "paths", "rules"]
# What the command line gives for a setting: a flag without a value, one value, or several.
Given = bool | str | Sequence[str]

# What is written in place of a setting that there was once, by the kind of its source.
REPLACED: Mapping[str, Mapping[str, str]] = {
    "overload": {
        "flag": """--topics '{"PATTERN": {"overload": "POLICY"}}'""",
        "variable": """MOORAGE_TOPICS='{"PATTERN": {"overload": "POLICY"}}'""",
        "file": """[topics."PATTERN"] with the key overload = "POLICY\"""",
    }
}

_WORDS = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


class InvalidConfigurationError(MoorageError):
    """The configuration cannot be used; `errors` holds everything that is wrong with it."""

    def __init__(self, errors: Sequence[ConfigurationError]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(map(str, errors)))


@attrs.frozen
class Configuration:
    """The settings in force, and where each of them came from."""

    settings: Settings
    # By setting: `--port`, `MOORAGE_PORT`, `moorage.toml:3`; settings at their default are absent.
    sources: Mapping[str, str]
    # The variables that were ignored, since Kubernetes sets them for a Service of this name.
    ignored: tuple[str, ...] = ()

    def source(self, name: str) -> str:
        """Return where the value of a setting came from, or `default`."""
        return self.sources.get(name, DEFAULT)


def flag(name: str) -> str:
    """Return the flag of a setting: `--max-message-size`."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """Return the environment variable of a setting: `MOORAGE_MAX_MESSAGE_SIZE`."""
    return PREFIX + name.upper()


def load(
    flags: Mapping[str, Given],
    environment: Mapping[str, str],
    file: Path | None = None,
) -> Configuration:
    """Return the settings that the sources give; `flags` holds the flags given, by setting.

    `file` is a TOML file of settings, `port = 9000`; relative paths in it start from its folder.
    Raises InvalidConfigurationError with everything that is wrong in any of the three sources: a
    wrong value is an error even where another source overrides it.
    """
    found = _Found()
    if file is not None:
        _read_file(found, file)
    _read_environment(found, environment)
    for name, given in flags.items():
        if name in KINDS:
            found.add(name, flag(name), lambda name=name, given=given: _from_flag(name, given))
        else:
            found.unknown(name, flag(name), KINDS, REPLACED.get(name, {}).get("flag"))
    if found.errors:
        raise InvalidConfigurationError(found.errors)
    try:
        settings = Settings(**found.values)
    except ConfigurationError as error:  # two settings that cannot be used together
        raise InvalidConfigurationError(
            [error.from_source(found.sources.get(error.setting))]
        ) from error
    return Configuration(settings, found.sources, tuple(found.ignored))


@attrs.define
class _Found:
    """What the sources that were read so far say; a later one overrides an earlier."""

    values: dict[str, Any] = attrs.field(factory=dict[str, Any])
    sources: dict[str, str] = attrs.field(factory=dict[str, str])
    errors: list[ConfigurationError] = attrs.field(factory=list[ConfigurationError])
    ignored: list[str] = attrs.field(factory=list[str])

    def add(self, name: str, source: str, read: typing.Callable[[], Any]) -> None:
        """Take the value that `read` returns, or the errors that it raises."""
        try:
            value = read()
            if (problem := validator(name).problem(value)) is not None:
                raise _wrong(name, problem)
        except ConfigurationError as error:
            self.errors.append(error.from_source(source))
        except InvalidConfigurationError as several:
            self.errors += [error.from_source(source) for error in several.errors]
        else:
            self.values[name] = value
            self.sources[name] = source

    def unknown(
        self, name: str, source: str, known: Iterable[str], replacement: str | None
    ) -> None:
        """Refuse a setting that does not exist, and say which one was probably meant."""
        close = difflib.get_close_matches(name.replace("-", "_"), list(known), n=1)
        if replacement is not None:
            guess = f"write {replacement} instead"
        elif close:
            guess = f"did you mean {close[0]}?"
        else:
            guess = "`moorage config show` lists them all"
        self.errors.append(
            ConfigurationError(name, f"there is no such setting; {guess}", source=source)
        )


def _read_environment(found: _Found, environment: Mapping[str, str]) -> None:
    names = {variable(name): name for name in KINDS}
    of_services = service_variables(environment, PREFIX)
    for key, text in environment.items():
        if key in of_services:
            found.ignored.append(key)
        elif key in names:
            name = names[key]
            found.add(name, key, lambda name=name, text=text: _from_variable(name, text))
        elif key.startswith(PREFIX) and key not in COMMAND_VARIABLES:
            replaced = REPLACED.get(key.removeprefix(PREFIX).lower(), {})
            known = (*names, *COMMAND_VARIABLES)
            found.unknown(key, "the environment", known, replaced.get("variable"))


def _read_file(found: _Found, file: Path) -> None:
    try:
        text = file.read_text("utf-8")
        table = tomllib.loads(text)
    except OSError as error:
        raise InvalidConfigurationError(
            [ConfigurationError("config", f"{file} cannot be read: {error.strerror}")]
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidConfigurationError(
            [ConfigurationError("config", f"{file} is not UTF-8 text")]
        ) from error
    except tomllib.TOMLDecodeError as error:
        place = re.search(r" \(at line (\d+), column (\d+)\)$", str(error))
        source = f"{file}:{place[1]}" if place else str(file)
        problem = str(error)[: place.start()] if place else str(error)
        raise InvalidConfigurationError(
            [ConfigurationError("config", f"this is not TOML: {problem}", source=source)]
        ) from error
    lines = key_lines(text)

    def source_of(path: KeyPath) -> str:
        return f"{file}:{lines[path]}"

    for name, value in table.items():
        if name in KINDS:
            found.add(
                name,
                source_of((name,)),
                lambda name=name, value=value: _from_toml(name, value, file.parent, source_of),
            )
        else:
            found.unknown(name, source_of((name,)), KINDS, REPLACED.get(name, {}).get("file"))


def _from_flag(name: str, given: Given) -> Any:
    kind = KINDS[name]
    if isinstance(given, bool):
        return given
    if isinstance(given, str):
        return _from_variable(name, given)
    if kind == "paths":
        return tuple(Path(entry) for entry in given)
    return tuple(_key_text(entry) if about(name).secret else entry for entry in given)


def _from_variable(name: str, text: str) -> Any:
    match KINDS[name]:
        case "text":
            return text
        case "whole number":
            return _number(name, int, text)
        case "number":
            return _number(name, float, text)
        case "flag":
            if (value := _WORDS.get(text.strip().lower())) is None:
                raise _wrong(name, f"{shown(text)} is neither true nor false")
            return value
        case "path":
            return Path(text)
        case "texts" if about(name).secret:
            return (_key_text(text),)  # a secret may hold commas and brackets
        case "texts":
            return tuple(_entries(name, text))
        case "paths":
            return tuple(map(Path, _entries(name, text)))
        case "rules":
            return _rules(_json_table(name, text))


def _from_toml(name: str, value: Any, folder: Path, source: typing.Callable[[KeyPath], str]) -> Any:
    match KINDS[name]:
        case "number" if isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        case "path" if isinstance(value, str):
            return folder / value if value else Path()
        case "texts" | "paths" as kind:
            entries = [value] if isinstance(value, str) else value
            if not _is_texts(entries):
                raise _wrong(name, "this is neither text nor a list of texts")
            return tuple(entries) if kind == "texts" else tuple(folder / e for e in entries)
        case "rules":
            return _rules(value, source)
        case _:
            return value


def _number(name: str, number: type[int] | type[float], text: str) -> float:
    try:
        return number(text)
    except ValueError:
        noun = "a whole number" if number is int else "a number"
        raise _wrong(name, f"{shown(text)} is not {noun}") from None


def _entries(name: str, text: str) -> list[str]:
    """Return the entries of a list: separated by commas, or a JSON array."""
    if not text.lstrip().startswith("["):
        return [entry.strip() for entry in text.split(",")] if text.strip() else []
    try:
        entries = json.loads(text)
    except ValueError:
        entries = None
    if not _is_texts(entries):
        raise _wrong(name, f"{shown(text)} begins like a JSON array, but is not an array of texts")
    return entries


def _is_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(
        isinstance(entry, str) for entry in cast("list[object]", value)
    )


def _rules(
    table: object, source: typing.Callable[[KeyPath], str | None] = lambda _: None
) -> Mapping[str, TopicRule]:
    rules, errors = read_topic_rules(table, source)
    if errors:
        raise InvalidConfigurationError(errors)
    return rules


def _json_table(name: str, text: str) -> object:
    """Return what a JSON text says; an empty one is an empty table."""

    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        # JSON alone would take the last one without a word; TOML refuses such a key as well.
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise _wrong(name, f"the key {shown(twice)} stands there twice")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=table) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        example = '{"orders.*": {"overload": "latest"}}'
        raise _wrong(name, f"this is not JSON such as {example}: {error}") from error


def _key_text(text: str) -> str:
    return text.strip("\r\n")


def _wrong(name: str, problem: str) -> ConfigurationError:
    return ConfigurationError(name, problem, allowed=validator(name).allowed)


def _kind(annotation: Any) -> Kind:
    kinds: dict[Any, Kind] = {
        bool: "flag",
        int: "whole number",
        int | None: "whole number",
        float: "number",
        str: "text",
        str | None: "text",
        Path | None: "path",
        tuple[str, ...]: "texts",
        tuple[Path, ...]: "paths",
        Mapping[str, TopicRule]: "rules",
    }
    return kinds[annotation]


# How a setting is read from text, by its name; it follows from the setting's type.
KINDS: Mapping[str, Kind] = {
    name: _kind(annotation) for name, annotation in typing.get_type_hints(Settings).items()
}
