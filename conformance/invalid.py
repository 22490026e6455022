"""What is wrong with data that does not fit its types, in a few words."""

from __future__ import annotations

from pydantic import ValidationError


def first_problem(error: ValidationError) -> str:
    """Where the first problem is, and what it is: `run.started: Field required`."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"])) or "the whole file"
    return f"{where}: {first['msg']}"
