"""The protocol: messages, topics, identities and errors. It has no clock, sockets or waiting."""
