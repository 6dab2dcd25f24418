"""The fixtures that tests of several rooms ask for."""

from __future__ import annotations

import pytest
import structlog


@pytest.fixture
def structlog_as_it_comes():
    """Structlog as a program finds it that has configured nothing, before and after the test."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()
