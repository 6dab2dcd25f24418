import pytest

from tests.fakes_client import FakeServer


@pytest.fixture
def server(nursery):
    """A scripted server in memory."""
    return FakeServer(nursery)
