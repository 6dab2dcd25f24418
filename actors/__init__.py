"""The actors: one task for each connection of the server, and the client at the other end."""
