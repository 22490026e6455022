"""Search for variations of a fixture that fail."""
