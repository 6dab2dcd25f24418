"""`moorage admin …` and `moorage top`: thin clients of the control socket.

`admin_command.py` lists the commands, which are in the files named `…_command.py`, `…_commands.py`
and `top.py`. `control_client.py` finds the server and gives it commands; `views.py`, `tables.py`
and `quantities.py` lay out the answers for people.
"""
