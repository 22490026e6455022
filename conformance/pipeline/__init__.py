"""From a fixture's name to logits on the ExecuTorch runtime. Knows subjects and models, never pytest."""
