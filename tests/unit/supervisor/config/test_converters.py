"""What a program may give where a setting has a type of its own."""

from pathlib import Path

from moorage.supervisor.config.converters import to_path, to_paths, to_texts


def test_one_text_is_a_list_of_one():
    assert to_texts("orders.*") == ("orders.*",)
    assert to_texts(["a", "b"]) == ("a", "b")
    assert to_texts(()) == ()


def test_one_path_is_a_list_of_one():
    assert to_paths("key.pem") == (Path("key.pem"),)
    assert to_paths(Path("key.pem")) == (Path("key.pem"),)
    assert to_paths(["a", Path("b")]) == (Path("a"), Path("b"))


def test_no_path_stays_none():
    assert to_path(None) is None
    assert to_path("key.pem") == Path("key.pem")
