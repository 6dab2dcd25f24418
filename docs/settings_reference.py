"""Write docs/settings.md from the `Settings` class: run this after changing a setting.

Each setting's name, default, unit, validator and help are written once, in that class. The flags,
the variables, `moorage config show` and this page are read off it; a test compares the page.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moorage.supervisor.config.about import About, Group
from moorage.supervisor.config.settings import Settings, about, validator
from moorage.supervisor.config.sources import KINDS
from moorage.supervisor.config.topic_rules import (
    RULE_KEYS,
    TopicRule,
    rule_key_about,
    rule_key_validator,
)

PAGE = Path(__file__).resolve().parent / "settings.md"
DEFAULTS = Settings()
COLUMNS = "| {} | default | unit | allowed | |\n|---|---|---|---|---|"

INTRODUCTION = """\
# Settings

<!-- docs/settings_reference.py writes this page from supervisor/config/. Change it there. -->

Every setting has one name and can be given in four ways. A flag counts before a variable, and a
variable before a file:

| | for `max_message_size` | several values |
|---|---|---|
| a flag of `moorage serve` | `--max-message-size 4096` | the flag again |
| a variable | `MOORAGE_MAX_MESSAGE_SIZE=4096` | separated by commas, or a JSON array |
| a TOML file (`--config FILE`, or `MOORAGE_CONFIG`) | `max_message_size = 4096` | an array |
| a program | `Settings(max_message_size=4096)` | a tuple or list |

A flag that turns something on has a counterpart that turns it off: `--query-token` and
`--no-query-token`; the variable is `true` or `false`. The variable `MOORAGE_JWT_KEY` holds one key,
as it is. Relative paths in a TOML file start from the file's folder, all others from the current
folder.

```toml
# moorage.toml
host = "0.0.0.0"
jwt_key_file = ["keys/2024.pem", "keys/2025.pem"]
subscribe_patterns = ["news.**", "orders.*"]
heartbeat_interval = 20

[topics."prices.*"]
overload = "latest"

[topics."log.**"]
overload = "drop_oldest"
client_publish = false
```

`moorage config show` prints the value of every setting and where it came from; `moorage config
check` says whether a server could start with the settings. Both take the same flags as `moorage
serve`. A name that does not exist, or a value that cannot be used, is an error that names its
source; all errors are reported at once.

A program gives its settings to `Settings(...)`, which reads neither the environment nor a file. A
program that reads them as well calls `load` of `moorage.supervisor.config.sources`:
`load({}, os.environ, path).settings`.

Times are in seconds, sizes in bytes.
"""


RULES = """\
`topics` is a table of rules, one for each topic pattern. For a topic, the first rule whose pattern
matches counts, in the order in which the rules are written. It counts alone: a key that it leaves
out has its default. A topic that no rule matches has all the defaults.

| | one rule |
|---|---|
| a flag | `--topics '{"prices.*": {"overload": "latest"}}'` |
| a variable | `MOORAGE_TOPICS='{"prices.*": {"overload": "latest"}}'` |
| a TOML file | `[topics."prices.*"]`, and below it `overload = "latest"` |
| a program | `Settings(topics={"prices.*": TopicRule(overload="latest")})` |

Rules of two sources are not mixed: with the flag, the rules of the variable and the file do not
count. The keys of a rule:
"""


def shown(value: Any) -> str:
    """Return a default as a TOML file would have it, or a hyphen where there is none."""
    match value:
        case None | () | "":
            return "-"
        case bool():
            return f"`{str(value).lower()}`"
        case float():
            return f"`{value:.15g}`"
        case tuple():
            return ", ".join(f"`{entry}`" for entry in value)
        case _ if hasattr(value, "items"):
            return "-"  # no rules
        case _:
            return f"`{value}`"


def setting_row(name: str) -> str:
    """Return a setting's line of its group's table."""
    # The help of a key says what it may be; a path or a flag needs no explanation, and the rules
    # have a table of their own.
    obvious = about(name).secret or KINDS[name] in ("flag", "path", "paths", "rules")
    allowed = "" if obvious else validator(name).allowed
    return row(name, getattr(DEFAULTS, name), allowed, about(name))


def row(name: str, default: Any, allowed: str, known: About) -> str:
    """Return one line of a table."""
    cells = (f"`{name}`", shown(default), known.unit, plain(allowed), plain(known.help))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def plain(text: str) -> str:
    """Return text as Markdown that shows it as it is; what is in backticks stays as it is."""
    pieces = text.split("`")
    pieces[::2] = [re.sub(r"([*_<])", r"\\\1", piece) for piece in pieces[::2]]
    return "`".join(pieces)


def page() -> str:
    """Return the whole page."""
    return "\n".join((INTRODUCTION, *_groups())) + "\n"


def _groups() -> Iterator[str]:
    for group in Group:
        yield f"## {group.value}\n"
        yield COLUMNS.format("setting")
        yield from (setting_row(name) for name in KINDS if about(name).group is group)
        yield ""
    yield RULES
    yield COLUMNS.format("key")
    for key in RULE_KEYS:
        default = getattr(TopicRule(), key)
        yield row(key, default, rule_key_validator(key).allowed, rule_key_about(key))
    yield ""


def main(arguments: list[str]) -> int:
    """Write the page; with --check only tell whether it is as it should be. Returns the status."""
    text = page().rstrip() + "\n"
    if arguments == ["--check"]:
        if PAGE.read_text(encoding="utf-8") == text:
            return 0
        print(f"{PAGE.name} is out of date: `make references` writes it anew", file=sys.stderr)
        return 1
    PAGE.write_text(text, encoding="utf-8")
    print(f"{PAGE.name} is written", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
