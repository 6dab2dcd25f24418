"""The `moorage` command: one file for each of its commands; `command_line.py` lists them."""
