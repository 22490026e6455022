"""What `package.module:name` names."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from conformance.core.suggest import unknown
from conformance.core.text import one_line

#: Characters shown of what a module raised.
_SHOWN = 300


def imported(name: str, kind: str, fits: Callable[[Any], bool] = callable, hint: str = "") -> Any:
    """What `name` names.

    Args:
        name: As `package.module:name`.
        kind: What messages call it, such as exporter.
        fits: Whether a value can be one.
        hint: Added to the message where the module cannot be imported.

    Raises:
        ValueError: It does not read so, or there is no such module, or nothing of that name in it fits.
    """
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), attribute]):
        raise ValueError(f"No such {kind} {name!r}: it has to read package.module:callable")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a module may do anything when it is imported
        why = "" if isinstance(error, ImportError) else f"importing it failed: {type(error).__name__}: "
        raise ValueError(f"No such {kind} {name!r}: {why}{one_line(str(error), _SHOWN)}{hint}") from error
    value = getattr(module, attribute, None)
    if not fits(value):
        public = [key for key, each in vars(module).items() if fits(each) and not key.startswith("_")]
        raise ValueError(f"{module_name}: {unknown(kind, attribute, public)}")
    return value
