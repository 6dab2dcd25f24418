"""The packages that Moorage can be installed without, and the error that says what to install."""

from importlib.util import find_spec

from .validators import ConfigurationError

# What `supervisor/http` imports, out of the extra `server` of pyproject.toml.
_HTTP_PACKAGES = ("hypercorn", "starlette", "prometheus_client")


def require_http(setting: str) -> None:
    """Raise ConfigurationError for a setting that asks for HTTP, where its packages are missing.

    This is called before `supervisor/http` is imported, where a missing package would be an
    ImportError that names neither the setting nor what to install.
    """
    if missing := [name for name in _HTTP_PACKAGES if find_spec(name) is None]:
        raise ConfigurationError(
            setting,
            f"HTTP needs {', '.join(missing)}, which this installation lacks: "
            "pip install 'moorage[server]'",
        )
