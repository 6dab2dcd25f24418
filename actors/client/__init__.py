"""The client: one connection to a server, made again whenever it is lost."""
