"""Mutated inputs of every kind: each is taken, or refused by an error that explains itself, and nothing else happens.

`python -m tests.fuzz --inputs 20000` (`make fuzz`) runs more of them than the tests do; see `tests.fuzz.judge`.
"""
