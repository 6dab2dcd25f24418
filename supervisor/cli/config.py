"""`moorage config`: what is set, by whom, and whether it can be used."""

import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import attrs
from cyclopts import App
from cyclopts import Group as HelpGroup

from ..config.settings import Group, Settings, about
from ..config.sources import Configuration, InvalidConfigurationError
from ..config.validators import ConfigurationError
from ..entrance.tokens import TokenVerifier
from .exits import leaves
from .flags import ConfigFile, Flags, SettingFlags, configuration

config_app = App(
    name="config",
    help="""Show or check the settings that `moorage serve` would run with.

    Settings come from flags, before MOORAGE_… variables, before a TOML file,
    before defaults. Both commands take every flag of `moorage serve`.
    """,
    group_parameters=HelpGroup("Command", sort_key=1),
)

_NO_FLAGS = Flags()


@config_app.command
def show(*, config: ConfigFile = None, flags: SettingFlags = _NO_FLAGS) -> None:
    """Print every setting in force and where it comes from, in the form of a TOML file.

    Keys are redacted; all else can be saved and given to --config.

    For example:
      $ moorage config show
      $ MOORAGE_PORT=9000 moorage config show --config moorage.toml
    """
    print(shown(configuration(flags, config)))


@config_app.command
def check(*, config: ConfigFile = None, flags: SettingFlags = _NO_FLAGS) -> None:
    """Say whether a server could start with these settings: read its keys, look for its files.

    Exits with 0, or with 2 after naming everything that is wrong.

    For example:
      $ moorage config check --config moorage.toml
    """
    found = configuration(flags, config)
    verifier = checked(found)
    for concern in verifier.concerns:
        print(f"warning: {concern}")
    count = len(found.sources)
    keys = ", ".join(verifier.algorithms) or "none: development mode, loopback only"
    print(
        f"ok: {count} setting{'' if count == 1 else 's'} given, the rest at default; keys: {keys}"
    )


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
    """Return one error for a group of them, each with the source of its setting."""
    return InvalidConfigurationError(
        [
            error.from_source(found.sources.get(error.setting))
            for error in leaves(group)
            if isinstance(error, ConfigurationError)
        ]
    )


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
    """Return the settings as TOML, a comment behind each with its unit and source."""
    blocks = [_block(found, group) for group in Group]
    return "\n\n".join(blocks)


def _block(found: Configuration, group: Group) -> str:
    rows: list[tuple[str, str]] = []
    for name in attrs.fields_dict(Settings):
        if about(name).group is group:
            unit = f"{about(name).unit}; " if about(name).unit else ""
            rows.append((_assignment(name, found.settings), f"# {unit}{found.source(name)}"))
    width = min(max(len(left) for left, _ in rows), 44)
    return "\n".join([f"# {group.value}", *(f"{left:<{width}}  {right}" for left, right in rows)])


def _assignment(name: str, settings: Settings) -> str:
    value = getattr(settings, name)
    if value is None:
        return f"# {name} is not set"
    if about(name).secret and value:
        return f"# {name} = redacted ({len(value)} set)"
    return f"{name} = {_toml(value)}"


def _toml(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str() | Path():
            return json.dumps(str(value), ensure_ascii=False)
        case tuple():
            return f"[{', '.join(map(_toml, cast('tuple[Any, ...]', value)))}]"
        case _:
            pairs = cast("Mapping[str, str]", value).items()
            inner = ", ".join(f"{_toml(key)} = {_toml(entry)}" for key, entry in pairs)
            return f"{{ {inner} }}" if inner else "{}"
