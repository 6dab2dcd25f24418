"""The tree of actors, drawn."""

from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from ....protocol.admin.answers import Actor
from .quantities import counted, size, span
from .tables import BAD, FAINT, GOOD, TITLE, WORRY, plain

_STYLES = {
    "serving": GOOD,
    "accepting": GOOD,
    "open": GOOD,
    "authenticating": WORRY,
    "suspended": BAD,
    "refusing": BAD,
    "closing": BAD,
}


def tree_view(root: Actor) -> RenderableType:
    """Draw the tree, from the supervisor down."""
    drawn = Tree("", hide_root=True, guide_style=FAINT)
    for child in root.children:
        _draw(child, drawn)
    parts: list[RenderableType] = [_label(root), drawn]
    if root.omitted:
        text = f"{counted(root.omitted, 'more connection')}: --limit shows up to 1,000"
        parts.append(Text(text, style=FAINT))
    return Group(*parts)


def _draw(actor: Actor, parent: Tree) -> None:
    branch = parent.add(_label(actor))
    for child in actor.children:
        _draw(child, branch)


def _label(actor: Actor) -> Text:
    """Return a line about an actor, and another one if something waits in its mailbox."""
    text = plain(actor.name.removesuffix(":"), TITLE)
    if actor.state != "running":
        text.append("  ").append_text(plain(actor.state, _STYLES.get(actor.state, "")))
    if actor.next_deadline is not None:
        text.append(f"  deadline {span(actor.next_deadline)}", style=FAINT)
    if actor.waits_for is not None:
        # A listener's URL leaves no room for it on a line of 80 characters.
        text.append("\n" if actor.kind == "listener" else "  ")
        text.append_text(plain(actor.waits_for, FAINT))
    if actor.mailbox_bytes:
        waiting = f"\n{size(actor.mailbox_bytes)} waiting"
        if actor.mailbox_oldest is not None:
            waiting += f", the oldest for {span(actor.mailbox_oldest)}"
        text.append(waiting, style=WORRY)
    return text
