"""A matrix of a few rows, for tests that need one and do not care what it says."""

from __future__ import annotations

from conformance.matrix.schema import Matrix, Row, Tier

_CACHES = {
    "gemma2": ("sliding_attention", "full_attention"),
    "gpt2": ("full_attention",),
    "llama": ("full_attention",),
    "mamba": ("mamba",),
}


def small_matrix() -> Matrix:
    """Rows of four architectures, with no known failures."""
    rows = {name: Row(Tier.CORE, caches, f"the caches of `{name}`") for name, caches in _CACHES.items()}
    return Matrix(rows)
