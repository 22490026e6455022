"""Parity: the checks of the PAR clauses that run a program."""
