"""The version of this package, written once: pyproject.toml reads it from here."""

# No `Final`: importing `typing` would be most of what `import moorage` takes.
VERSION = "0.1.0"
