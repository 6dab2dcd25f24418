"""Settings: their names, rules and defaults, and the sources that they come from."""
