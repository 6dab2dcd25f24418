"""Where clients come in: listeners, permits, tokens."""
