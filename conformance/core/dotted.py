"""Import what `package.module:name` names."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

from conformance.core.errors import InputError
from conformance.core.suggest import unknown
from conformance.core.text import one_line

#: Characters shown of what a module raised.
_SHOWN = 300


def imported(name: str, kind: str, fits: Callable[[Any], bool] = callable, hint: str = "") -> Any:
    """The value that `name` names.

    Args:
        name: As `package.module:name`.
        kind: The word for it in messages, such as exporter.
        fits: Whether a value can be one.
        hint: Added to the message where the module cannot be imported.

    Raises:
        InputError: It has another form, its module cannot be imported, or has no fitting value of that name.
    """
    require_module(name, kind, hint)
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a module may do anything when it is imported
        raise _refusal(name, kind, error, hint) from error
    value = getattr(module, attribute, None)
    if not fits(value):
        public = [key for key, each in vars(module).items() if fits(each) and not key.startswith("_")]
        raise InputError("unknown-name", f"{module_name}: {unknown(kind, attribute, public)}")
    return value


def require_module(name: str, kind: str, hint: str = "") -> None:
    """Raise as `imported` does if there is no such module, without importing more than its packages."""
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), attribute]):
        raise InputError("unknown-name", f"No such {kind} {name!r}: expected package.module:callable")
    if module_name.endswith(".py"):
        raise InputError("unknown-name", f"No such {kind} {name!r}: write {module_name[:-3]}:{attribute}, without .py")
    try:
        found = module_name in sys.modules or importlib.util.find_spec(module_name)
    except (Exception, SystemExit) as error:
        raise _refusal(name, kind, error, hint) from error
    if not found:
        raise _refusal(name, kind, ModuleNotFoundError(f"No module named {module_name!r}"), hint)


def _refusal(name: str, kind: str, error: BaseException, hint: str) -> ValueError:
    why = "" if isinstance(error, ImportError) else f"importing it failed: {type(error).__name__}: "
    return InputError("cannot-import", f"No such {kind} {name!r}: {why}{one_line(str(error), _SHOWN)}{hint}")
