"""Which pages may use a server, and by which names it may be addressed."""

import pytest

from moorage.protocol.loopback import LOOPBACK, host_problem, is_loopback, page_problem

THIS_MACHINE = frozenset({LOOPBACK})
NAMED = frozenset({"https://app.example.org:8443", LOOPBACK})
LOCAL = ["localhost", "app.localhost", "127.0.0.1", "127.8.9.10", "[::1]"]
FOREIGN = [
    *("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "notlocalhost"),
    *("192.168.1.2", "0.0.0.0", "[::]", "[fe80::1]", "[::1", "::1", "127.0.0.1x", "user@localhost"),
    *("localhost:80:90", "localhost:evil", "[::1]evil", "localhost#.evil.example", ""),
]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost", "a.localhost"])
def test_only_this_machine_reaches_loopback(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "localhost.example"])
def test_other_machines_may_reach_the_rest(host):
    assert not is_loopback(host)


@pytest.mark.parametrize("port", ["", ":1", ":65535"])
@pytest.mark.parametrize("host", LOCAL)
def test_pages_of_this_machine_have_any_port_and_either_scheme(host, port):
    for scheme in ("http", "https", "HTTP"):
        assert page_problem(f"{scheme}://{host}{port}", THIS_MACHINE) is None
    assert host_problem(host.upper() + port, THIS_MACHINE) is None


@pytest.mark.parametrize("host", FOREIGN)
def test_pages_and_names_of_others_are_not_of_this_machine(host):
    assert "`allowed_origins`" in (page_problem(f"http://{host}", THIS_MACHINE) or "")
    assert "`allowed_origins`" in (host_problem(host, THIS_MACHINE) or "")


@pytest.mark.parametrize("origin", ["null", "loopback", "*", "", "file://", "ftp://localhost"])
def test_what_names_no_page_is_none_of_this_machine(origin):
    assert page_problem(origin, THIS_MACHINE)


def test_programs_send_no_origin():
    assert page_problem(None, THIS_MACHINE) is page_problem(None, frozenset()) is None


def test_where_all_may_come_nothing_is_checked():
    assert page_problem("https://evil.example", None) is host_problem("evil.example", None) is None


def test_an_origin_that_is_named_may_come_and_be_addressed():
    assert page_problem("HTTPS://App.example.org:8443", NAMED) is None
    assert host_problem("app.example.org", NAMED) is None
    assert page_problem("https://app.example.org", NAMED)
    assert host_problem("example.org", NAMED)


def test_without_this_machine_among_the_origins_any_host_will_do():
    assert host_problem("app.example.org", frozenset({"https://a.b"})) is None
    assert page_problem("http://localhost", frozenset({"https://a.b"}))


def test_an_empty_host_names_nothing_not_even_by_an_origin_without_one():
    assert host_problem("", frozenset({LOOPBACK, "null"}))


def test_probes_that_leave_the_host_out_may_ask_since_no_browser_does():
    assert host_problem(None, THIS_MACHINE) is None
