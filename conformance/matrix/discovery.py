"""Which architectures the installed Transformers registers as causal language models, found without importing it."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

_MAPPING = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"
_PADDED_TABLE = re.compile(r"nn\.Embedding\(\s*config\.max_position_embeddings,[^()]*\bpadding_idx")


@cache
def transformers_folder() -> Path:
    """The folder of the installed package.

    Raises:
        LookupError: Transformers is not installed.
    """
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        raise LookupError("transformers is not installed")
    return Path(spec.origin).parent


@cache
def registered() -> tuple[str, ...]:
    """Every `model_type` with a causal-LM class, in Transformers' order.

    Read off the source of `transformers.models.auto.modeling_auto`, where the mapping is a literal: importing it costs
    seconds, and a typo on the command line should be reported at once.

    Raises:
        LookupError: Transformers is not installed, or keeps its mapping otherwise.
    """
    path = transformers_folder() / "models" / "auto" / "modeling_auto.py"
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == _MAPPING for t in node.targets):
            pairs = next(part for part in ast.walk(node.value) if isinstance(part, ast.List | ast.Dict))
            keys = pairs.keys if isinstance(pairs, ast.Dict) else [_first(pair) for pair in pairs.elts]
            return tuple(str(key.value) for key in keys if isinstance(key, ast.Constant))
    raise LookupError(f"{path} has no {_MAPPING}")


def is_architecture(model_type: str) -> bool:
    """Whether the installed Transformers has a model of this name, causal or not, by the folder of its code.

    Raises:
        LookupError: Transformers is not installed.
    """
    return bool(model_type) and (transformers_folder() / "models" / model_type.replace("-", "_")).is_dir()


def _first(pair: ast.expr) -> ast.expr | None:
    return pair.elts[0] if isinstance(pair, ast.Tuple) else None


def renamed_keys(model_type: str) -> dict[str, str]:
    """The names of common keys in the config class of `model_type`, by the common name.

    Read off the class's `attribute_map`, by which Transformers itself translates names; empty if it has none.
    """
    path = configuration_module(model_type)
    return _attribute_map(ast.parse(path.read_text(encoding="utf-8")), model_type) if path else {}


def has_padding_row(model_type: str) -> bool:
    """Whether the table of positions of `model_type` has a row for padding, behind which its positions begin.

    Read off the source of its model: RoBERTa and its family make `nn.Embedding(config.max_position_embeddings, ...,
    padding_idx=...)`, and have fewer positions than in their config, by the padding id and one.
    """
    path = configuration_module(model_type)
    model = path.with_name(path.name.replace("configuration_", "modeling_")) if path else None
    return model is not None and model.is_file() and bool(_PADDED_TABLE.search(model.read_text(encoding="utf-8")))


def configuration_module(model_type: str) -> Path | None:
    """The module with the config class of `model_type`; None if there is none.

    Raises:
        LookupError: Transformers is not installed.
    """
    # Spaces around the sign tell the attribute of a class from an argument, by which others name their text models.
    wanted = re.compile(rf'\bmodel_type(: [\w\[\]]+)? = "{re.escape(model_type)}"')
    paths = sorted(_configurations(transformers_folder()), key=_starts(model_type))
    return next((path for path in paths if wanted.search(path.read_text(encoding="utf-8"))), None)


@cache  # for 190 rows, listing 540 folders anew took 3 s
def _configurations(top: Path) -> tuple[Path, ...]:
    return tuple(sorted((top / "models").glob("*/configuration_*.py")))


def _starts(model_type: str) -> Callable[[Path], bool]:
    """A key by which the directories that a model type's own name begins with come first."""
    name = model_type.replace("-", "_")
    return lambda path: not name.startswith(path.parent.name)


def _attribute_map(module: ast.Module, model_type: str) -> dict[str, str]:
    classes = {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}
    found = next((node for node in classes.values() if _value(node, "model_type") == model_type), None)
    while found is not None:
        names = _value(found, "attribute_map")
        if isinstance(names, dict):
            return names
        bases = (base.id for base in found.bases if isinstance(base, ast.Name))
        found = next((classes[base] for base in bases if base in classes), None)
    return {}


def _value(node: ast.ClassDef, name: str) -> object:
    """The literal that a class's body assigns to `name`; None if it does not, or not a literal."""
    for line in node.body:
        targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            try:
                return ast.literal_eval(line.value)  # type: ignore[attr-defined]  # an assignment has it
            except (ValueError, TypeError):
                return None
    return None
