import pytest

from moorage.actors.entrance.forwarded import TrustedProxies, source_of

PROXIES = TrustedProxies.parse(["10.0.0.0/8", "192.168.1.1", "fd00::/8"])


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        pytest.param("203.0.113.9", "198.51.100.1", "203.0.113.9", id="not from a proxy"),
        pytest.param("10.0.0.1", "", "10.0.0.1", id="a proxy that says nothing"),
        pytest.param("10.0.0.1", "198.51.100.1", "198.51.100.1", id="one proxy"),
        pytest.param("10.0.0.1", " 198.51.100.1 ", "198.51.100.1", id="spaces"),
        pytest.param("10.0.0.1", "198.51.100.1, 10.0.0.2", "198.51.100.1", id="two proxies"),
        pytest.param("10.0.0.1", "6.6.6.6, 198.51.100.1, 10.2.3.4", "198.51.100.1", id="made up"),
        pytest.param("10.0.0.1", "10.6.6.6, 10.0.0.2", "10.6.6.6", id="nobody but proxies"),
        pytest.param("10.0.0.1", "6.6.6.6, unknown", "10.0.0.1", id="a word for an address"),
        pytest.param("10.0.0.1", "6.6.6.6, 1.2.3.4:567", "10.0.0.1", id="a port"),
        pytest.param("10.0.0.1", ",,", "10.0.0.1", id="nothing but commas"),
        pytest.param(
            "192.168.1.1", "198.51.100.1", "198.51.100.1", id="a single address is a network"
        ),
        pytest.param(
            "192.168.1.2", "198.51.100.1", "192.168.1.2", id="the address beside it is not"
        ),
        pytest.param("fd00::1", "2001:db8::5", "2001:db8::5", id="six"),
        pytest.param("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1", id="four in six"),
        pytest.param("2001:db8::1", "198.51.100.1", "2001:db8::1", id="six that is no proxy"),
        pytest.param("", "198.51.100.1", "198.51.100.1", id="a unix socket"),
        pytest.param("somewhere", "198.51.100.1", "somewhere", id="a peer without an address"),
    ],
)
def test_the_list_is_believed_from_its_end_as_far_as_proxies_vouch(peer, forwarded_for, client):
    assert PROXIES.client_address(peer, forwarded_for) == client


@pytest.mark.parametrize("peer", ["10.0.0.1", "", "::1"])
def test_without_trusted_proxies_nobody_is_believed(peer):
    assert TrustedProxies().client_address(peer, "198.51.100.1") == peer


def test_a_network_with_host_bits_is_the_network_around_them():
    assert TrustedProxies.parse(["10.1.2.3/8"]) == TrustedProxies.parse(["10.0.0.0/8"])


def test_what_is_no_network_is_refused():
    with pytest.raises(ValueError, match="nonsense"):
        TrustedProxies.parse(["nonsense"])


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::1", "2001:db8:1:2::"),
        ("2001:db8:1:3::1", "2001:db8:1:3::"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::"),
        ("", ""),  # a Unix socket
        ("uid 1000, pid 17", "uid 1000, pid 17"),
        ("a:b", "a:b"),
    ],
)
def test_the_source_of_an_ipv6_address_is_its_64(address, source):
    assert source_of(address) == source
