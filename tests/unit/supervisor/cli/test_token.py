"""`moorage token`: what it mints, a server takes."""

import re
import shlex
from pathlib import Path

import pytest

from moorage.supervisor.config.settings import Settings
from moorage.supervisor.entrance.tokens import TokenVerifier
from tests.fakes_cli import SECRET


def test_a_minted_token_is_accepted_by_a_server_with_that_key(moorage, monkeypatch):
    monkeypatch.setenv("MOORAGE_JWT_KEY", SECRET)
    code, out, err = moorage(
        *("token", "--user", "ann", "--role", "admin", "--ttl", "15m", "--session", "s"),
        *("--subscribe", "orders.*", "--subscribe", "news", "--publish", "chat"),
        *("--audience", "shop", "--issuer", "me", "--info", '{"n": 1}'),
    )
    assert (code, err) == (0, "")
    settings = Settings(jwt_key=SECRET, jwt_audience="shop", jwt_issuer="me")
    identity = TokenVerifier.from_settings(settings).verify(out.strip())
    assert (identity.user_id, identity.role, identity.session_id) == ("ann", "admin", "s")
    assert identity.info == {"n": 1}
    assert identity.permissions.subscribe.matches("news")
    assert not identity.permissions.publish.matches("news")


def test_the_command_that_the_dashboard_names_works_when_it_is_typed(moorage, monkeypatch):
    # It once named no user, and failed.
    page = (Path(__file__).parents[4] / "supervisor/http/static/index.html").read_text("utf-8")
    (command,) = re.findall(r"<code>(moorage token [^<]+)</code>", page)
    monkeypatch.setenv("MOORAGE_JWT_KEY", SECRET)
    code, out, err = moorage(*shlex.split(command)[1:])
    assert (code, err) == (0, "")
    identity = TokenVerifier.from_settings(Settings(jwt_key=SECRET)).verify(out.strip())
    assert identity.role == "admin"


@pytest.mark.parametrize(("ttl", "seconds"), [("90", 90), ("1h", 3600), ("7d", 604_800)])
def test_a_tokens_time_is_written_with_a_unit(moorage, ttl, seconds):
    _, out, _ = moorage("token", "--user", "ann", "--key", SECRET, "--ttl", ttl)
    claims = TokenVerifier.from_settings(Settings(jwt_key=SECRET))._claims(out.strip())
    assert claims["exp"] - claims["iat"] == seconds


def test_a_key_file_is_a_secret_or_pem(moorage, tmp_path):
    (tmp_path / "secret").write_text(SECRET + "\n")
    _, out, _ = moorage("token", "--user", "ann", "--key-file", str(tmp_path / "secret"))
    assert TokenVerifier.from_settings(Settings(jwt_key=SECRET)).verify(out.strip())


def test_a_secret_that_can_be_guessed_signs_only_when_asked_to(moorage):
    """It signed, and the server that took it only wrote a line into its log."""
    code, out, err = moorage("token", "--user", "ann", "--key", "short")
    assert (code, out) == (2, "")
    assert "a secret of 5 bytes can be guessed" in err
    assert "openssl rand -hex 32" in err
    code, out, _ = moorage("token", "--user", "ann", "--key", "short", "--allow-short-key")
    assert code == 0
    settings = Settings(jwt_key="short", jwt_allow_short_keys=True)
    assert TokenVerifier.from_settings(settings).verify(out.strip()).user_id == "ann"
