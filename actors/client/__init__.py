"""The client at the other end: a connection that is kept."""
