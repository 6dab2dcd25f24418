"""The description that a field carries."""

import attrs
import pytest

from moorage.supervisor.config.about import About, Group, described, description


@attrs.frozen
class Lamp:
    colour: str = attrs.field(metadata=described(Group.LOGS, "Its colour.", "metres", secret=True))
    size: int = 0


def test_a_description_is_read_where_it_was_put():
    fields = attrs.fields_dict(Lamp)
    assert description(fields["colour"]) == About(
        Group.LOGS, help="Its colour.", unit="metres", secret=True
    )
    with pytest.raises(KeyError):
        description(fields["size"])


def test_topics_are_the_last_group_because_tables_end_a_toml_file():
    assert list(Group)[-1] is Group.TOPICS
