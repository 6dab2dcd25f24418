"""The operators' side: admin sessions, commands, events, snapshots."""
