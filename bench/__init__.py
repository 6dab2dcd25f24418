"""Load benchmarks: Moorage and its peers, doing the same work on the same machine.

`python -m bench` runs them; README.md beside this file says what is measured and how to read it.
"""
