"""Workers on other machines, by xdist's own gateways: what they are told, and what they have to have.

xdist copies the checkout to them and the reports back. Nothing is shared but the connection.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import pytest

from conformance.core.paths import ROOT
from conformance.records.environment import versions

#: Left behind: what a run writes. Hidden folders, such as tox's and git's, xdist leaves behind by itself.
_IGNORED = ("build", "__pycache__")
#: Decides in which order models of several kinds of layers make their masks, and so which program is exported.
_HASH_SEED = "PYTHONHASHSEED"
#: Runs over there, where nothing of the suite can be imported yet.
_ASK = f"""
import os
from importlib import metadata

found = {{}}
for name in channel.receive():
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
channel.send((found, os.environ.get("{_HASH_SEED}")))
"""


def add_hosts(config: pytest.Config) -> None:
    """Put the machines of `--host` beside the workers here."""
    hosts = config.getoption("--host")
    if not hosts or hasattr(config, "workerinput"):
        return
    option = config.option
    local = option.numprocesses
    if local in ("auto", "logical"):
        local = config.hook.pytest_xdist_auto_num_workers(config=config)
    option.tx = ["popen"] * (local or 0) + hosts
    option.numprocesses = None  # or xdist would replace what was just said
    option.dist = "load"
    config.invocation_params = dataclasses.replace(
        config.invocation_params, args=_for_elsewhere(config.invocation_params.args, config.args)
    )
    option.rsyncdir = [*option.rsyncdir, str(ROOT)]
    option.rsyncignore = [*option.rsyncignore, *_IGNORED]


def _for_elsewhere(arguments: Iterable[object], paths: Collection[str]) -> tuple[str, ...]:
    """The command line, so that xdist can make of it that of a worker on another machine.

    It looks for each argument that is a path here below what it has copied, by its absolute path, and refuses all
    others. So paths become absolute, and an option's value becomes a part of the option.
    """
    told: list[str] = []
    for argument in map(str, arguments):
        if argument in paths:
            path, separator, rest = argument.partition("::")
            told.append(f"{Path(path).resolve()}{separator}{rest}")
        elif told and told[-1].startswith("--") and "=" not in told[-1] and not argument.startswith("-"):
            told[-1] += f"={argument}"
        else:
            told.append(argument)
    return tuple(told)


def is_remote(node: Any) -> bool:
    """Whether xdist's `node` is a worker on another machine."""
    return not node.gateway.spec.popen


def require_alike(gateway: Any) -> None:
    """Raises `pytest.UsageError` unless the other end of a new gateway has what verdicts here depend on."""
    if gateway.spec.popen:
        return
    channel = gateway.remote_exec(_ASK)
    here = versions()
    channel.send(list(here))
    found, hash_seed = channel.receive()
    channel.waitclose()
    differing = [
        f"{name} {found.get(name, '–')} and not {here[name]}" for name in here if found.get(name) != here[name]
    ]
    if differing:
        raise pytest.UsageError(f"--host {gateway.spec}: it has {', '.join(differing)}, as here")
    if hash_seed != os.environ.get(_HASH_SEED):
        wanted = os.environ.get(_HASH_SEED, "unset")
        raise pytest.UsageError(
            f"--host {gateway.spec}: {_HASH_SEED} is {hash_seed or 'unset'} there and {wanted} here"
        )
