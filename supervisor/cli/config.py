"""`moorage config`: show and check the settings, and the program that a server would run."""

import importlib
import json
import os
import ssl
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from cyclopts import App
from cyclopts import Group as HelpGroup

from ..app import App as Program
from ..config.about import Group
from ..config.exposure import exposures
from ..config.settings import Settings, about
from ..config.sources import KINDS, Configuration, InvalidConfigurationError
from ..config.topic_rules import RULE_KEYS, TopicRule, rule_key_about
from ..config.validators import ConfigurationError
from ..entrance.tokens import TokenVerifier
from .exits import CommandError, leaves
from .flags import ConfigFile, Flags, ProgramApp, SettingFlags, configuration
from .terminal.rendering import out

config_app = App(
    name="config",
    help="""Show or check the settings that `moorage serve` would run with.

    A flag counts before a MOORAGE_… variable, a variable before a TOML file,
    the file before the default. Both commands take the flags of `moorage serve`.
    """,
    group_parameters=HelpGroup("Command", sort_key=1),
)

_NO_FLAGS = Flags()


@config_app.command
def show(*, config: ConfigFile = None, flags: SettingFlags = _NO_FLAGS) -> None:
    """Print every setting in force and where it comes from, in the form of a TOML file.

    Keys are redacted. All the rest can be saved and given to --config.

    For example:
      $ moorage config show
      $ MOORAGE_PORT=9000 moorage config show --config moorage.toml
    """
    out(*shown(configuration(flags, config)).split("\n"))


@config_app.command
def check(
    *, app: ProgramApp = None, config: ConfigFile = None, flags: SettingFlags = _NO_FLAGS
) -> None:
    """Check whether a server could start with these settings: their values, keys and files.

    With --app, or $MOORAGE_APP, the program is imported too, as `moorage serve`
    does. The exit code is 0 if a server could start, 1 if the program cannot be
    imported, and otherwise 2; then everything that is wrong is named. What the
    settings leave open is said as well: as a warning if strangers could abuse
    it, else as a note.

    For example:
      $ moorage config check --config moorage.toml
      $ moorage config check --config moorage.toml --app chat:app
    """
    found = configuration(flags, config)
    verifier = checked(found)
    chosen_app(app)
    for concern in verifier.concerns:
        out(f"warning: {concern}")
    for exposure in exposures(found.settings):
        level = "warning" if exposure.serious else "note"
        out(f"{level}: {_assignment(exposure.setting, found.settings)}: {exposure.meaning}")
    count = len(found.sources)
    keys = ", ".join(verifier.algorithms) or "none: development mode, loopback only"
    out(f"ok: {count} setting{'' if count == 1 else 's'} given, the rest at default; keys: {keys}")


def checked(found: Configuration) -> TokenVerifier:
    """Read the files that the settings name, and return what verifies tokens.

    Raises ConfigurationError, with the source of the setting, for one that cannot be used.
    """
    settings = found.settings
    try:
        if settings.tls_certificate is not None:
            _check_certificate(settings.tls_certificate, settings.tls_key)
        return TokenVerifier.from_settings(settings)
    except ConfigurationError as error:
        raise error.from_source(found.sources.get(error.setting)) from error


def located(group: ExceptionGroup[ConfigurationError], found: Configuration) -> Exception:
    """Return one error for all errors of a group, each with the source of its setting."""
    return InvalidConfigurationError(
        [
            error.from_source(found.sources.get(error.setting))
            for error in leaves(group)
            if isinstance(error, ConfigurationError)
        ]
    )


def chosen_app(given: str | None) -> Program:
    """Return the app that the flag or the variable names, or else one without endpoints.

    Raises what `load_app` does.
    """
    name, source = (given, "--app") if given else (os.environ.get("MOORAGE_APP"), "MOORAGE_APP")
    return load_app(name, source) if name else Program()


def load_app(name: str, source: str) -> Program:
    """Return the `App` that MODULE:NAME names, imported as from the current folder.

    Raises ConfigurationError where there is none, and CommandError where importing it fails.
    """
    allowed = "MODULE:NAME, such as chat.server:app"
    module_name, colon, attribute = name.partition(":")
    if not colon or not all(part.isidentifier() for part in module_name.split(".")):
        problem = f"{name!r} is not of that form"
        raise ConfigurationError("app", problem, allowed=allowed, source=source)
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _broken(module_name, error) from error
        problem = f"there is no module {error.name!r} in {here} or among the packages installed"
        raise ConfigurationError("app", problem, allowed=allowed, source=source) from error
    except Exception as error:
        raise _broken(module_name, error) from error
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, Program):
        apps = [
            key
            for key, value in vars(sys.modules[module_name]).items()
            if isinstance(value, Program)
        ]
        problem = (
            f"{attribute!r} of {module_name} is {'missing' if found is None else 'not an App'}"
        )
        allowed = ", ".join(f"{module_name}:{key}" for key in apps) or "a module that holds an App"
        raise ConfigurationError("app", problem, allowed=allowed, source=source)
    return found


def _broken(module: str, error: Exception) -> CommandError:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{frame.filename}:{frame.lineno}"
    if isinstance(error, SyntaxError):
        place = f"{error.filename}:{error.lineno}"
    return CommandError(f"importing {module} failed at {place}: {type(error).__name__}: {error}")


def _check_certificate(certificate: Path, key: Path | None) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        files = f"{certificate} with {key}" if key else str(certificate)
        raise ConfigurationError(
            "tls_certificate",
            f"{files} cannot be used: {getattr(error, 'reason', None) or error}",
            allowed="a certificate chain and its private key, as PEM",
        ) from error


def shown(found: Configuration) -> str:
    """Return the settings as TOML; behind each, a comment says its unit and its source."""
    blocks = [f"# {group.value}\n{_aligned(_rows(found, group))}" for group in Group]
    return "\n\n".join([*blocks, *_tables(found)])


def _rows(found: Configuration, group: Group) -> Iterator[tuple[str, str]]:
    for name in KINDS:
        if about(name).group is group:
            unit = f"{about(name).unit}; " if about(name).unit else ""
            yield _assignment(name, found.settings), f"# {unit}{found.source(name)}"


def _aligned(rows: Iterator[tuple[str, str]]) -> str:
    """Return lines of two columns."""
    lines = list(rows)
    width = min(max((len(left) for left, _ in lines), default=0), 44)
    return "\n".join(f"{left:<{width}}  {right}".rstrip() for left, right in lines)


def _assignment(name: str, settings: Settings) -> str:
    value = getattr(settings, name)
    if value is None or value == {}:  # `topics = {}` would forbid `[topics.…]` further below
        return f"# {name} is not set"
    if about(name).secret and value:
        return f"# {name} = redacted ({len(value)} set)"
    if isinstance(value, Mapping):
        count = len(cast("Mapping[str, Any]", value))
        return f"# {name} = {count} rule{'' if count == 1 else 's'}, below"
    return f"{name} = {_toml(value)}"


def _tables(found: Configuration) -> Iterator[str]:
    """Yield the topic rules, a table each; in TOML, tables come after all other keys."""
    for pattern, rule in found.settings.topics.items():
        yield f"[topics.{_toml(pattern)}]\n{_aligned(_options(rule))}"


def _options(rule: TopicRule) -> Iterator[tuple[str, str]]:
    for key in RULE_KEYS:
        value = getattr(rule, key)
        unit = rule_key_about(key).unit
        comment = f"# {unit}" if unit else ""
        yield (f"# {key} is not set" if value is None else f"{key} = {_toml(value)}"), comment


def _toml(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str() | Path():
            # TOML has the escapes of JSON, and one of its own for all characters.
            quoted = json.dumps(str(value), ensure_ascii=False)
            return "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in quoted)
        case _:
            return f"[{', '.join(map(_toml, cast('tuple[Any, ...]', value)))}]"
