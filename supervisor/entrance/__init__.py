"""The entrance for clients: listeners, admission, tokens."""
