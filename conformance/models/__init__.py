"""From a config to a tiny, deterministic, discriminating model; variations; checkpoints."""
