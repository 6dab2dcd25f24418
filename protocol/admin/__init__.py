"""The admin protocol: what operators may ask for, and what they are answered with."""
