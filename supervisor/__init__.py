"""The supervisor, which looks after the connections; its settings, its operators, its HTTP."""
