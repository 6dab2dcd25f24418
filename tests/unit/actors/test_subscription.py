"""A subscription, as a value."""

from __future__ import annotations

import attrs
import pytest

from moorage.actors.subscription import Subscription


def test_a_subscription_is_the_programs_unless_the_client_asked():
    assert not Subscription("a").by_client
    assert Subscription("a", by_client=True).by_client


def test_subscriptions_are_values():
    assert Subscription("a") == Subscription("a")
    assert Subscription("a") != Subscription("a", by_client=True)
    assert len({Subscription("a"), Subscription("a"), Subscription("b")}) == 2


def test_a_subscription_cannot_be_changed():
    for name in ("topic", "by_client"):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(Subscription("a"), name, "b")


def test_a_subscription_does_not_name_its_connection():
    """The tables file it under its connection: a reference back would make the two a cycle."""
    assert set(attrs.fields_dict(Subscription)) == {"topic", "by_client"}
