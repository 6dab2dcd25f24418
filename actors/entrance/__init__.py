"""From a fresh stream to an accepted, authenticated peer."""
