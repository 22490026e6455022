"""The architectures and their known failures: rows, causes, selection, shards, fingerprints."""
