"""Which architectures the installed Transformers registers as causal language models, found without importing it."""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path

_MAPPING = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"


@cache
def registered() -> tuple[str, ...]:
    """Every `model_type` with a causal-LM class, in Transformers' order.

    Read off the source of `transformers.models.auto.modeling_auto`, where the mapping is a literal: importing it costs
    seconds, and a typo on the command line should be answered at once.

    Raises:
        LookupError: Transformers is not installed, or keeps its mapping otherwise.
    """
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        raise LookupError("transformers is not installed")
    path = Path(spec.origin).parent / "models" / "auto" / "modeling_auto.py"
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == _MAPPING for t in node.targets):
            pairs = next(part for part in ast.walk(node.value) if isinstance(part, ast.List | ast.Dict))
            keys = pairs.keys if isinstance(pairs, ast.Dict) else [_first(pair) for pair in pairs.elts]
            return tuple(str(key.value) for key in keys if isinstance(key, ast.Constant))
    raise LookupError(f"{path} has no {_MAPPING}")


def is_architecture(model_type: str) -> bool:
    """Whether the installed Transformers has a model of this name, causal or not, by the folder of its code."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None or not model_type:
        return False
    return (Path(spec.origin).parent / "models" / model_type.replace("-", "_")).is_dir()


def _first(pair: ast.expr) -> ast.expr | None:
    return pair.elts[0] if isinstance(pair, ast.Tuple) else None
