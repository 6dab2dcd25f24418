"""What a server says that was asked for HTTP and lacks its packages."""

import pytest

from moorage.supervisor.app import App
from moorage.supervisor.config import extras
from moorage.supervisor.config.extras import require_http
from moorage.supervisor.config.settings import Settings
from moorage.supervisor.config.validators import ConfigurationError
from moorage.supervisor.server import open_supervisor
from tests.fakes import RecordingLogger


def test_with_its_packages_it_says_nothing():
    require_http("http_port")


def test_without_them_the_error_names_the_setting_and_the_remedy(monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "starlette" else name)
    with pytest.raises(ConfigurationError) as caught:
        require_http("http_port")
    assert caught.value.setting == "http_port"
    assert str(caught.value) == (
        "http_port: HTTP needs starlette, which this installation lacks: "
        "pip install 'moorage[server]'"
    )


async def test_a_server_that_is_to_listen_for_http_says_so_when_it_opens(monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    settings = Settings(port=0, http_port=0, anonymous=True, jwt_key="x" * 32)
    with pytest.raises(ConfigurationError, match="http_port: HTTP needs hypercorn, starlette, "):
        async with open_supervisor(settings, App(), logger=RecordingLogger()):
            pytest.fail("it opened")
