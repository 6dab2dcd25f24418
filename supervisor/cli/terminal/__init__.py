"""The terminal: what the command reads from it, and the one way out for what it prints."""
