"""The connection actor: one task, its mailbox, its deadlines and its end."""
