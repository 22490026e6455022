"""The environment of a run: package versions, read without importing the packages, and the machine."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

from conformance.records.run import DIRTY, Environment

#: The packages whose versions a verdict depends on: those that every run may use, and those that a backend needs.
PACKAGES = (
    *("torch", "transformers", "executorch", "torchao", "hypothesis", "pytest"),
    *("ai_ml_sdk_model_converter", "coreai-torch", "coremltools", "ethos-u-vela", "ml_dtypes", "nncf"),
    *("onnxruntime-qnn", "openvino", "tosa-tools"),
)


def versions() -> dict[str, str]:
    """Installed versions of `PACKAGES`; missing packages are left out."""
    installed = {}
    for package in PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return installed


def environment() -> Environment:
    """This machine and interpreter."""
    return Environment(python=platform.python_version(), platform=platform.platform(), cpu=_cpu(), packages=versions())


def commit(checkout: Path) -> str | None:
    """The commit of `checkout`, followed by `DIRTY` if it has uncommitted changes.

    None if it is unknown: git is missing, or the files are not a checkout, such as a copy inside another repository.
    """
    top = _git(checkout, "rev-parse", "--show-toplevel")
    head = _git(checkout, "rev-parse", "--verify", "HEAD")
    if not top or not head or not re.fullmatch(r"[0-9a-f]{40,64}", head) or Path(top).resolve() != checkout.resolve():
        return None
    changed = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    return head if changed == "" else f"{head}{DIRTY}"


def _git(checkout: Path, *arguments: str) -> str | None:
    """The output of git; None if it is missing or fails."""
    # In a hook of another repository, git's variables would make it work on that one.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        ended = subprocess.run(
            ["git", "-C", str(checkout), *arguments],
            env={**plain, "GIT_OPTIONAL_LOCKS": "0"},  # a lock would disturb others who work in the checkout
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return ended.stdout.strip() if ended.returncode == 0 else None


def _cpu() -> str:
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = names[0].partition(":")[2].strip() if names else name
    return f"{name}, {os.cpu_count()} cores"
