"""The pytest side: plugin, options, recorder, isolation, terminal."""
