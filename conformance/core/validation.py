"""Short messages for data that does not fit its types."""

from __future__ import annotations

from typing import Annotated

from packaging.version import InvalidVersion, Version
from pydantic import AfterValidator, ValidationError


def _is_version(text: str) -> str:
    try:
        Version(text)
    except InvalidVersion:
        raise ValueError(f"{text!r} is not a version; write one such as '5.0.0'") from None
    return text


#: The version of a package.
VersionText = Annotated[str, AfterValidator(_is_version)]


def first_problem(error: ValidationError) -> str:
    """The first problem and its key: `run.started: Field required`."""
    first = error.errors(include_url=False)[0]
    key = ".".join(map(str, first["loc"])) or "the whole file"
    return f"{key}: {first['msg']}"
