"""What is wrong with data that does not fit its types, in a few words."""

from __future__ import annotations

from typing import Annotated

from packaging.version import InvalidVersion, Version
from pydantic import AfterValidator, ValidationError


def _is_version(text: str) -> str:
    try:
        Version(text)
    except InvalidVersion:
        raise ValueError(f"{text!r} is no version such as '5.0.0'") from None
    return text


#: The version of a package, in a file that people write.
VersionText = Annotated[str, AfterValidator(_is_version)]


def first_problem(error: ValidationError) -> str:
    """Where the first problem is, and what it is: `run.started: Field required`."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"])) or "the whole file"
    return f"{where}: {first['msg']}"
