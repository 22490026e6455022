"""Installs what `tox -e upstream` puts under test: `python -m conformance.cli.upstream`.

TRANSFORMERS_SPEC, EXECUTORCH_SPEC and TORCH_SPEC are read from the environment. Each is a release, such as 5.14 or
5.14.1, or anything that pip accepts: a requirement, a wheel, a checkout, a Git URL.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence

from conformance.core.errors import InputError, with_code
from conformance.core.paths import ROOT
from conformance.core.suggest import unknown

RELEASES = ROOT / "releases.toml"
_PACKAGES = ("transformers", "executorch", "torch")


def requirements(environ: Mapping[str, str], releases: Mapping[str, Mapping[str, Sequence[str]]]) -> list[str]:
    """What to install, as arguments for pip; without TRANSFORMERS_SPEC, the latest Transformers.

    Args:
        environ: Environment variables.
        releases: By package, what a release is installed with, by its first two numbers.

    Raises:
        ValueError: A release of two numbers is not in `releases`.
    """
    wanted: list[str] = []
    for package in _PACKAGES:
        spec = environ.get(f"{package.upper()}_SPEC") or ("transformers" if package == "transformers" else "")
        listed = releases.get(package, {})
        if spec in listed:
            wanted += listed[spec]
        elif re.fullmatch(r"\d+\.\d+", spec) and package != "torch":
            raise InputError(
                "unknown-name",
                f"{package.upper()}_SPEC: {unknown('release', spec, listed)} Or write {package}=={spec}.0",
            )
        elif re.fullmatch(r"\d+(\.\w+)+", spec):
            # What the other releases of the same two numbers need beside them.
            beside = listed.get(".".join(spec.split(".")[:2]), ())
            wanted += [f"{package}=={spec}", *beside[1:]]
        elif spec:
            wanted.append(spec)
    return wanted


def main() -> int:
    """Install it, all in one call, so that pip makes sure that it fits together."""
    try:
        wanted = requirements(os.environ, tomllib.loads(RELEASES.read_text(encoding="utf-8")))
    except InputError as error:
        print(f"error {with_code(error)}", file=sys.stderr)
        return 2
    return subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", *wanted], check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
