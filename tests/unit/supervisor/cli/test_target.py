"""The parameters that `connect` and `publish` share."""

from moorage.supervisor.entrance.tokens import mint_token
from tests.fakes_cli import SECRET, beside, serving


async def test_a_token_comes_from_the_flag_or_the_environment(moorage, monkeypatch, typed):
    token = mint_token(SECRET, user="ann", publish=["mine"])
    async with serving(jwt_key=SECRET) as server:
        (url,) = server.addresses
        code, _, err = await beside(moorage, "publish", url, "--topic", "mine")
        assert code == 1
        assert "HTTP 401" in err
        code, _, _ = await beside(moorage, "publish", url, "--topic", "mine", "--token", token)
        assert code == 0
        monkeypatch.setenv("MOORAGE_TOKEN", token)
        code, _, err = await beside(moorage, "publish", url, "--topic", "other")
        assert code == 1
        assert "forbidden" in err
        assert token not in err


async def test_a_server_that_is_away_is_a_failure(moorage, typed):
    typed("")
    for command in (["publish", "--topic", "t"], ["connect"]):
        code, _, err = await beside(moorage, *command, "ws://127.0.0.1:9/ws", "--timeout", "0.1")
        assert code == 1
        assert err.splitlines()[-1] == (
            "moorage: no connection to 127.0.0.1:9 within 0.1 s: connection refused, nothing "
            "listens there"
        )
