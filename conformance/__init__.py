"""A conformance suite for the path from a Transformers model to an ExecuTorch program with a static cache."""
