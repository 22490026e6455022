"""Child processes: isolation, limits, one way to fork."""
