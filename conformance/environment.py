"""Where a run takes place: versions and machine, read without importing what is asked about."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from conformance.records import Environment

#: The packages whose versions a verdict depends on.
PACKAGES = ("torch", "transformers", "executorch", "torchao", "hypothesis", "pytest")


def versions() -> dict[str, str]:
    """Installed versions of `PACKAGES`; one that is missing is left out."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def environment() -> Environment:
    """This machine and interpreter."""
    return Environment(python=platform.python_version(), platform=platform.platform(), cpu=_cpu(), packages=versions())


def _cpu() -> str:
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = names[0].partition(":")[2].strip() if names else name
    return f"{name}, {os.cpu_count()} cores"
