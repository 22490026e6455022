"""Types of parameters."""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from conformance.core.console import CommandError
from conformance.core.errors import InputError, code_of

if TYPE_CHECKING:
    from conformance.runner.option_table import Names

_TABLE = "conformance.runner.option_table"


class Name(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click only
    """A name of a kind, or several between commas; an unknown one is an error that has the nearest known one.

    Args:
        kind: The kind, or its name in `conformance.runner.option_table`, which is imported when a name has been typed.
        several: Whether it takes several, and gives a list.
    """

    name = "name"

    def __init__(self, kind: str | Names, *, several: bool = False) -> None:
        self._kind = kind
        self._several = several

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The name or names, if all of them are known."""
        table = importlib.import_module(_TABLE)
        kind: Names = getattr(table, self._kind) if isinstance(self._kind, str) else self._kind
        names = table.split_names(value) if self._several else [value]
        if not names:
            _fail("no-names", f"no {kind.kind} given", param, ctx)
        try:
            problem = next(filter(None, map(kind.problem, names)), "")
        except (ValueError, LookupError) as error:  # in the matrix, or there is no Transformers
            raise CommandError(code_of(error) or "missing-package", str(error)) from error
        if problem:
            _fail("unknown-name", problem, param, ctx)
        return names if self._several else value


class Reader(click.ParamType):  # type: ignore[type-arg]  # as above
    """A text that a function parses; the function raises InputError."""

    def __init__(self, name: str, read: Callable[[str], object]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The function's result."""
        try:
            return self._read(str(value))
        except InputError as error:
            _fail(error.code, error.message, param, ctx)


def _fail(code: str, message: str, param: click.Parameter | None, ctx: click.Context | None) -> NoReturn:
    raise click.BadParameter(message, ctx, param) from InputError(code, message)


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < math.inf:
        raise InputError("invalid-number", f"{text!r} is not a number of minutes above 0")
    return minutes


#: A time to search for.
MINUTES = Reader("minutes", _minutes)
#: Files and folders; their content is checked when it is read.
FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


def import_from_here() -> None:
    """Let exporters be found in the current folder, as `python -m` does and a script does not."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
