"""Backends that the suite does not know: each is named on the command line as `tests.backends.MODULE:NAME`."""
