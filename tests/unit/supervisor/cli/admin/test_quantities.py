"""Numbers for people."""

import pytest

from moorage.supervisor.cli.admin import quantities


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (quantities.count(8123), "8,123"),
        (quantities.counted(1, "topic"), "1 topic"),
        (quantities.counted(2, "topic"), "2 topics"),
        (quantities.rate(0), "0/s"),
        (quantities.rate(12_345), "12.3 k/s"),
        (quantities.size(0), "0 B"),
        (quantities.size(999), "999 B"),
        (quantities.size(999_600), "1.00 MB"),
        (quantities.size(1_998_192), "2.00 MB"),
        (quantities.size(5e16), "50000 TB"),
        (quantities.span(0.0009), "0.9 ms"),
        (quantities.span(59.96), "1 min 0 s"),
        (quantities.span(11_520), "3 h 12 min"),
        (quantities.span(-1.5), "-1.5 s"),
        (quantities.brief(11_520), "3 h"),
        (quantities.brief(0.0123), "12 ms"),
        (quantities.share(0, 0), "0 %"),
        (quantities.share(99_999, 100_000), "99.999 %"),
        (quantities.share(1, 1), "100 %"),
        (quantities.trend([0, 1, 2]), "▁▅█"),
        (quantities.trend([0, 0]), "▁▁"),
        (quantities.moment("2026-01-31T12:00:00.123Z"), "2026-01-31 12:00:00 UTC"),
        (quantities.moment("soon"), "soon"),
    ],
)
def test_numbers_have_few_digits_and_a_unit(shown, expected):
    assert shown == expected
