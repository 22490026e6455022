"""Which architectures there are and what is known to fail: rows, causes, selection, shards, fingerprints."""
