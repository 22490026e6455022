"""Decode scripts, sessions that follow them, the oracle, and ExecuTorch's LLM runner with its tokenizers."""
