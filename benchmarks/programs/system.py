"""Packages, which `python -m benchmarks.programs.system` prints as JSON, and the memory of this process."""

from __future__ import annotations

import json
import re
from importlib import metadata
from pathlib import Path

#: Packages whose versions say what made a program.
_PACKAGES = ("torch", "executorch", "transformers", "torchao", "optimum-executorch")
_STATUS = Path("/proc/self/status")


def packages() -> dict[str, str]:
    """Installed versions, by name; missing packages are left out."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def resident_bytes() -> int:
    """Memory of this process that is resident."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """The most that was resident since this process began. (`getrusage` counts what was before `exec`, too.)"""
    return _status("VmHWM")


def _status(key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB", _STATUS.read_text(encoding="ascii", errors="replace"), re.MULTILINE)
    if found is None:
        raise OSError(f"{_STATUS} has no {key}")
    return int(found[1]) * 1024


if __name__ == "__main__":
    print(json.dumps(packages()))
