"""Check the pages, as far as a program can: `make docs`.

The links of every page lead to files and headings that exist, the files and `make` verbs that it
names exist, and its examples are correct Python, TOML or JSON.
"""

import ast
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

ROOT = Path(__file__).resolve().parent.parent

# Names of the reader's own files on the pages; they are not in this tree.
READERS_OWN = frozenset({"app.py", "main.py", "server.py", "client.py"})

FENCE = re.compile(
    r"^```(?P<language>[\w+-]*)[^\n]*\n(?P<text>.*?)^```[ \t]*$", re.DOTALL | re.MULTILINE
)
LINK = re.compile(r"\[[^\]\n]*\]\((?P<target>[^)\s]+)[^)\n]*\)")
HEADING = re.compile(r"^#+[ \t]+(?P<text>.+?)[ \t#]*$", re.MULTILINE)
CODE = re.compile(r"`(?P<text>[^`\n]+)`")
FILE_NAME = re.compile(r"[\w.*-]+(?:/[\w.*-]+)*/?")
SUFFIXES = (".py", ".md", ".sh", ".c", ".js", ".html", ".css")
VERB = re.compile(r"(?:^|(?<=[`$&;] ))make (?P<verb>[a-z-]+)", re.MULTILINE)
TARGET = re.compile(r"^(?P<verb>[a-z-]+):", re.MULTILINE)


@frozen
class Page:
    """One Markdown file; `prose` is its text without the blocks of code."""

    path: Path
    text: str
    prose: str  # without the fenced blocks, whose lines are kept empty so that numbers stay right

    @classmethod
    def read(cls, path: Path) -> "Page":
        """Read the page at `path`; raises OSError if it is not there."""
        text = path.read_text(encoding="utf-8")
        return cls(path, text, FENCE.sub(lambda block: "\n" * block[0].count("\n"), text))

    def anchors(self) -> set[str]:
        """Return the anchors of this page's headings, made in the same way as code hosts do."""
        titles = (re.sub(r"[`*]", "", heading["text"]) for heading in HEADING.finditer(self.prose))
        return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}

    def say(self, position: int, complaint: str) -> str:
        """Return a complaint about the text at `position`, in characters, with file and line."""
        line = self.text.count("\n", 0, position) + 1
        return f"{self.path.relative_to(ROOT)}:{line}: {complaint}"


def wrong_links(page: Page) -> Iterator[str]:
    """Find links to files or headings that do not exist. Links to the web are not checked."""
    for link in LINK.finditer(page.prose):
        place, _, anchor = link["target"].partition("#")
        if "://" in place or place.startswith("mailto:"):
            continue
        target = (page.path.parent / place).resolve() if place else page.path
        line = _position(page, link)
        if not target.exists():
            yield page.say(line, f"the link leads nowhere: {link['target']}")
        elif anchor and target.suffix == ".md" and anchor not in Page.read(target).anchors():
            yield page.say(line, f"no such heading in {target.name}: {anchor}")


def wrong_names(page: Page, files: frozenset[str]) -> Iterator[str]:
    """Find names of files, written as `code`, that no file of the tree has."""
    folders = {name.partition("/")[0] for name in files if "/" in name}
    for code in CODE.finditer(page.prose):
        name = code["text"]
        first, slash, _ = name.partition("/")
        if not FILE_NAME.fullmatch(name) or name in READERS_OWN:
            continue
        if not (slash and first in folders) and not name.endswith(SUFFIXES):
            continue
        if not _is_there(name, page, files):
            yield page.say(_position(page, code), f"no such file: {name}")


def wrong_verbs(page: Page, verbs: frozenset[str]) -> Iterator[str]:
    """Find `make` verbs that the Makefile does not have."""
    said = [(code.start(), code["text"]) for code in CODE.finditer(page.prose)]
    said += [(block.start("text"), block["text"]) for block in FENCE.finditer(page.text)]
    for position, text in said:
        for make in VERB.finditer(text):
            if make["verb"] not in verbs:
                yield page.say(position + make.start(), f"no such verb: {make[0]}")


def wrong_examples(page: Page) -> Iterator[str]:
    """Find examples that are not correct Python, TOML or JSON."""
    for block in FENCE.finditer(page.text):
        try:
            match block["language"]:
                case "python" | "py":
                    # An excerpt may await outside of any function.
                    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
                    compile(block["text"], str(page.path), "exec", flags, dont_inherit=True)
                case "toml":
                    tomllib.loads(block["text"])
                case "json":
                    _read_json(block["text"])
                case _:
                    pass
        except (SyntaxError, ValueError) as error:
            yield page.say(block.start(), f"this {block['language']} cannot be read: {error}")


def _read_json(text: str) -> None:
    """Read one value, or one on each line, as in a conversation; ValueError if it is neither."""
    try:
        json.loads(text)
    except ValueError:
        for line in filter(str.strip, text.splitlines()):
            json.loads(line)


def _position(page: Page, match: re.Match[str]) -> int:
    """Return the place in the page's text where a line begins that was found in its prose."""
    line = page.prose.count("\n", 0, match.start())
    return sum(len(each) for each in page.text.splitlines(keepends=True)[:line])


def _is_there(name: str, page: Page, files: frozenset[str]) -> bool:
    """Tell whether there is such a file or folder: from the root, beside the page, or anywhere."""
    if any(any(start.glob(name.rstrip("/"))) for start in (ROOT, page.path.parent)):
        return True
    return any(file.endswith(f"/{name}") or f"/{name.rstrip('/')}/" in f"/{file}" for file in files)


def tree() -> frozenset[str]:
    """Return the paths of all files of the project, without generated and installed ones."""
    hidden_or_made = re.compile(
        r"(^|/)(\.(?!ci/|editorconfig|gitignore|pre-commit)|__pycache__/|[^/]*\.egg-info/)"
    )
    names = (path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file())
    return frozenset(name for name in names if not hidden_or_made.search(name))


def main() -> int:
    """Print all complaints; the exit status is 1 if there are any."""
    paths = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    verbs = frozenset(target["verb"] for target in TARGET.finditer(makefile))
    files = tree()
    complaints: list[str] = []
    for path in paths:
        page = Page.read(path)
        complaints += wrong_links(page)
        complaints += wrong_names(page, files)
        complaints += wrong_verbs(page, verbs)
        complaints += wrong_examples(page)
    print(*complaints, sep="\n", end="\n" if complaints else "")
    print(f"{len(paths)} pages, {len(complaints)} untrue")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
