"""The admin protocol: the commands of operators, what each asks, and how it is answered."""
