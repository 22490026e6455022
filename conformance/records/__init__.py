"""What a run writes and reads back: run records, failure bundles, the environment, resuming."""
