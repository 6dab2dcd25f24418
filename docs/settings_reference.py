"""Writes docs/settings.md out of the `Settings` class: run it after changing a setting.

Each setting's name, default, unit, rule and help stand once, in that class; the flags, the
variables, `moorage config show` and this page are all read off it. A test compares.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from moorage.supervisor.config.settings import Group, Settings, about, rule
from moorage.supervisor.config.sources import KINDS

PAGE = Path(__file__).resolve().parent / "settings.md"

INTRODUCTION = """\
# Settings

<!-- Written by docs/settings_reference.py out of supervisor/settings.py. Change it there. -->

Every setting has one name and can be given in four ways. The first of these that gives it counts:

| | for `max_message_size` | several values |
|---|---|---|
| a flag of `moorage serve` | `--max-message-size 4096` | the flag again |
| a variable | `MOORAGE_MAX_MESSAGE_SIZE=4096` | separated by commas, or a JSON array |
| a TOML file (`--config FILE`, or `MOORAGE_CONFIG`) | `max_message_size = 4096` | an array |
| a program | `Settings(max_message_size=4096)` | a tuple or list |

A flag that is on or off has a counterpart: `--query-token` and `--no-query-token`; as a variable
it is `true` or `false`. A variable with a key holds one key, as it is. Relative paths in a TOML
file start from its folder, all others from the current one.

```toml
# moorage.toml
host = "0.0.0.0"
jwt_key_file = ["keys/2024.pem", "keys/2025.pem"]
subscribe_patterns = ["news.**", "orders.*"]
heartbeat_interval = 20

[overload]
"prices.*" = "latest"
"log.**" = "drop_oldest"
```

`moorage config show` prints the value of every setting and where it came from, and takes the same
flags as `moorage serve`; `moorage config check` says whether a server could start with them. A name
that does not exist, or a value that cannot be used, is an error that names its source; all of them
are reported at once.

A program gives its settings to `Settings(...)`, which reads neither the environment nor a file.
Where a program wants both as well, `load` of `moorage.supervisor.configuration` reads them:
`load({}, os.environ, path).settings`.

Times are in seconds, sizes in bytes.
"""


def shown(value: Any) -> str:
    """Return a default as it would be written in the TOML file, or a hyphen where there is none."""
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
            return ", ".join(f"`{key}`: `{each}`" for key, each in value.items()) or "-"
        case _:
            return f"`{value}`"


def row(name: str, default: Any) -> str:
    """Return a setting's line of its group's table."""
    known = about(name)
    # What a key may be is in its help, and of a path or a flag there is nothing to say.
    obvious = known.secret or KINDS[name] in ("flag", "path", "paths")
    allowed = "" if obvious else rule(name).allowed
    cells = (f"`{name}`", shown(default), known.unit, plain(allowed), plain(known.help))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def plain(text: str) -> str:
    """Return text as Markdown that shows it as it is, but for what stands in backticks."""
    pieces = text.split("`")
    pieces[::2] = [re.sub(r"([*_<])", r"\\\1", piece) for piece in pieces[::2]]
    return "`".join(pieces)


def page() -> str:
    """Return the whole page."""
    return "\n".join((INTRODUCTION, *_groups())) + "\n"


def _groups() -> Iterator[str]:
    defaults = Settings()
    for group in Group:
        yield f"## {group.value}\n"
        yield "| setting | default | unit | allowed | |"
        yield "|---|---|---|---|---|"
        for name in attrs.fields_dict(Settings):
            if about(name).group is group:
                yield row(name, getattr(defaults, name))
        yield ""


if __name__ == "__main__":
    PAGE.write_text(page().rstrip() + "\n", encoding="utf-8")
    print(f"{PAGE.name} is written anew", file=sys.stderr)
