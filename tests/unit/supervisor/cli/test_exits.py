"""How the errors in a group are found."""

from moorage.supervisor.cli.exits import leaves


def test_the_errors_of_a_group_are_found_at_any_depth():
    first, second = ValueError(), KeyError()
    group = ExceptionGroup("outer", [ExceptionGroup("inner", [first]), second])
    assert list(leaves(group)) == [first, second]
    assert list(leaves(first)) == [first]
