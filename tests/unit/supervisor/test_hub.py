"""The registry: every connection is found by id and by user, and no entry is ever left behind."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.protocol.closing import CloseCause
from moorage.protocol.errors import RemoteProtocolError
from moorage.supervisor.registry import Registry


@attrs.define(eq=False)
class Entry:
    """A connection, as far as the registry knows one."""

    id: str
    user_id: str | None = None
    address: str = ""


def test_a_connection_is_found_by_id_and_by_user():
    registry = Registry()
    one, two = Entry("1", "ann"), Entry("2", "ann")
    registry.add(one)
    registry.add(two)
    assert registry.by_id["1"] is one
    assert registry.of_user("ann") == (one, two)
    assert registry.of_user("bob") == ()
    assert len(registry) == 2


def test_going_through_all_connections_is_safe_while_they_leave():
    registry = Registry()
    for number in range(5):
        registry.add(Entry(str(number)))
    for entry in registry:
        registry.remove(entry)
    assert len(registry) == 0


def test_removing_what_never_was_in_changes_nothing():
    registry = Registry()
    registry.add(Entry("1", "ann", "192.0.2.1"))
    registry.remove(Entry("2", "ann", "192.0.2.1"))
    assert len(registry.of_user("ann")) == 1
    assert registry.by_address == {"192.0.2.1": 1}


@pytest.mark.parametrize("field", ["user_id", "address"])
def test_one_too_many_is_refused_and_changes_nothing(field):
    registry = Registry(max_per_user=2, max_per_address=2)
    present = [Entry(str(number), **{field: "x"}) for number in range(2)]
    for entry in present:
        registry.add(entry)
    with pytest.raises(RemoteProtocolError) as caught:
        registry.add(Entry("3", **{field: "x"}))
    assert caught.value.close is CloseCause.TOO_MANY_CONNECTIONS
    assert list(registry) == present
    assert registry.by_address.get("x", 2) == 2
    registry.remove(present[0])
    registry.add(Entry("4", **{field: "x"}))  # there is room again


def test_a_user_one_too_many_is_not_counted_for_its_address():
    registry = Registry(max_per_user=1, max_per_address=2)
    registry.add(Entry("1", "ann", "192.0.2.1"))
    with pytest.raises(RemoteProtocolError):
        registry.add(Entry("2", "ann", "192.0.2.1"))
    registry.add(Entry("3", "bob", "192.0.2.1"))
    assert registry.by_address == {"192.0.2.1": 2}


def test_a_user_that_becomes_known_later_is_found_and_limited():
    registry = Registry(max_per_user=1)
    first, second = Entry("1"), Entry("2")
    for entry in (first, second):
        registry.add(entry)
        entry.user_id = "ann"
    registry.set_user(first, None)
    registry.set_user(first, "ann")  # a renewed token: the same user again
    with pytest.raises(RemoteProtocolError):
        registry.set_user(second, None)
    assert registry.of_user("ann") == (first,)


def test_addresses_are_not_limited_where_there_are_none():
    registry = Registry(max_per_address=1)
    registry.add(Entry("1"))  # by a Unix socket
    registry.add(Entry("2"))
    assert registry.by_address == {}


@given(
    st.lists(
        st.tuples(
            st.booleans(),
            st.integers(0, 9),
            st.sampled_from([None, "ann", "bob"]),
            st.sampled_from(["", "192.0.2.1", "192.0.2.2"]),
        )
    )
)
def test_the_tables_agree_with_a_plain_list_of_connections(steps):
    registry = Registry(max_per_user=3, max_per_address=4)
    present: dict[str, Entry] = {}
    for arrives, number, user_id, address in steps:
        key = str(number)
        if not arrives:
            if key in present:
                registry.remove(present.pop(key))
        elif key not in present:
            entry = Entry(key, user_id, address)
            of_user = sum(e.user_id == user_id for e in present.values())
            of_address = sum(e.address == address for e in present.values())
            fits = (user_id is None or of_user < 3) and (not address or of_address < 4)
            if fits:
                registry.add(entry)
                present[key] = entry
            else:
                with pytest.raises(RemoteProtocolError):
                    registry.add(entry)
        users = {e.user_id for e in present.values()} - {None}
        addresses = {e.address for e in present.values()} - {""}
        assert registry.by_id == present
        assert set(registry.by_user) == users
        assert set(registry.by_address) == addresses
