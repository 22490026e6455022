"""What a checkpoint has that a backend, or the reference, has a known limit for."""

from __future__ import annotations

from typing import Any

from conformance.matrix.known_failures import Limit
from conformance.models.config_fields import EXPERTS


def limits_of(config: Any) -> frozenset[Limit]:
    """The limits that concern a model with the decoder's `config`."""
    has = {
        Limit.ANY_MODEL: True,
        Limit.TIED_EMBEDDINGS: bool(config.tie_word_embeddings),
        Limit.EXPERTS: any(getattr(config, name, None) for name in EXPERTS),
    }
    return frozenset(limit for limit in Limit if has[limit])
