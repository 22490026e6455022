"""A pytest plugin for `--host`: xdist workers on other machines, each in a checkout of its own, equal to this one.

Nothing is copied to them, and no file system is shared: reports and failure bundles come back over the connection.
"""

from __future__ import annotations

import functools
import os
import shlex
import sys
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from pathlib import PurePath
from typing import Any

import execnet
import pytest

from conformance.core.paths import ROOT
from conformance.records.environment import commit, versions
from conformance.records.run import DIRTY
from conformance.runner.errors import usage_error

#: Decides in which order models of several kinds of layers make their masks, and so which program is exported.
_HASH_SEED = "PYTHONHASHSEED"
#: Holds options of this machine's workers that the others would not get.
_PYTEST_OPTIONS = "PYTEST_ADDOPTS"
#: Without a worker on this machine, xdist would not distribute at all. This one is replaced before it is started.
_NO_WORKER = "popen//id=none"
_USAGE = "write socket=HOST:PORT//chdir=CHECKOUT or ssh=HOST//python=PYTHON//chdir=CHECKOUT"
_HOSTS = pytest.StashKey[list[Any]]()
#: Runs on the other machine, where nothing of the suite can be imported yet.
_ASK = """
import os, sys

checkout = channel.receive()
try:
    if checkout:
        os.chdir(checkout)
    sys.path.insert(0, os.getcwd())
    from conformance.runner.hosts import facts

    answer = facts()
except (ImportError, OSError) as error:
    answer = f"{type(error).__name__}: {error}"
channel.send((os.getcwd(), answer))
"""


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Before xdist decides where its workers are: have it distribute, and send the command line as it is.

    Raises:
        pytest.UsageError: An option that does not go with `--host`, or a path that another checkout does not have.
    """
    if not config.getoption("--host") or hasattr(config, "workerinput"):
        return
    specs = [spec for text in config.getoption("--host") for spec in _specs(text)]
    for number, spec in enumerate(specs):
        spec.id = spec.id or f"host{number}"
    config.stash[_HOSTS] = specs
    _require_paths_of_the_checkout(config)
    option = config.option
    workers = option.numprocesses or 0
    if workers in ("auto", "logical"):
        workers = config.hook.pytest_xdist_auto_num_workers(config=config)
    option.tx = ["popen"] * workers or [_NO_WORKER]
    option.numprocesses = None  # or xdist would replace `tx`
    option.dist = "load"
    # xdist 3.8 looks for each argument that is a path in what it has copied, and refuses the run if it is not there.
    # An option that holds the whole command line is not a path.
    arguments = shlex.join([*config.getini("addopts"), *map(str, config.invocation_params.args)])
    config.invocation_params = replace(config.invocation_params, args=(f"--override-ini=addopts={arguments}",))


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: list[Any]) -> None:
    """Add the other machines: not by `--tx`, since xdist 3.8 copies folders to each machine that it finds there.

    They come first, so that one that is refused ends the run before a worker here begins to import torch.
    """
    hosts = config.stash.get(_HOSTS, None)
    if hosts is not None:
        specs[:] = [*hosts, *(spec for spec in specs if not str(spec).endswith(_NO_WORKER))]
        config.option.tx = list(map(str, specs))  # its length is the number of workers that the scheduler waits for


@pytest.hookimpl(wrapper=True)
def pytest_sessionstart(session: pytest.Session) -> Generator[None, object, object]:
    """While xdist starts its workers: name the machines, if one of them cannot be reached."""
    try:
        return (yield)
    except (execnet.HostNotFound, ConnectionError, TimeoutError) as error:
        hosts = session.config.stash.get(_HOSTS, None)
        if hosts is None:
            raise
        named = ", ".join(map(str, hosts))
        raise usage_error(
            "host-unreachable", f"--host {named}: cannot connect ({type(error).__name__}: {error})"
        ) from error


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_newgateway(gateway: Any) -> None:
    """Before a worker begins on another machine: compare what verdicts depend on.

    Raises:
        pytest.UsageError: The other machine has no checkout of the suite, or it differs.
    """
    if gateway.spec.popen:
        return
    try:
        channel = gateway.remote_exec(_ASK)
        channel.send(gateway.spec.checkout)
        directory, there = channel.receive()
        channel.waitclose()
    except (EOFError, OSError, execnet.RemoteError) as error:
        reason = str(error).strip().rpartition("\n")[2] or type(error).__name__  # without the traceback there
        raise usage_error(
            "host-unreachable", f"--host {gateway.spec}: Python does not start there ({reason})"
        ) from error
    if isinstance(there, str) or there["checkout"] != directory:
        reason = there if isinstance(there, str) else f"it has imported the one in {there['checkout']}"
        raise usage_error(
            "host-differs",
            f"--host {gateway.spec}: cannot run the suite in {directory} ({reason}); "
            "add //chdir=/path/of/a/checkout/there of the same commit",
        )
    if differing := list(differences(facts(), there)):
        raise usage_error("host-differs", f"--host {gateway.spec}: {'; '.join(differing)}")


def is_remote(node: Any) -> bool:
    """Whether xdist's `node` is a worker on another machine."""
    return not node.gateway.spec.popen


def facts() -> dict[str, Any]:
    """What verdicts depend on in this process, as plain values: the checkout, versions and settings."""
    return {
        "checkout": str(ROOT),
        "commit": commit(ROOT),
        "imported": _imported_commit(),
        "versions": {"Python": f"{sys.version_info.major}.{sys.version_info.minor}", **versions()},
        "hash": str(hash(_HASH_SEED)),  # execnet sends no integer below -2**31
        "settings": {name: os.environ.get(name) for name in (_HASH_SEED, _PYTEST_OPTIONS)},
    }


@functools.cache
def _imported_commit() -> str | None:
    """The commit when this process first looked: a socket server keeps its imported modules from run to run."""
    return commit(ROOT)


def differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> Iterator[str]:
    """How the `facts` of another machine differ from those of this one, and what to do about it."""
    if problem := _commit_problem(here, there):
        yield problem
        return  # the facts of another commit may have another form
    other = [
        f"{name} is {there['versions'].get(name, 'missing')} there, {here['versions'].get(name, 'missing')} here"
        for name in dict.fromkeys([*here["versions"], *there["versions"]])
        if there["versions"].get(name) != here["versions"].get(name)
    ]
    if other:
        yield f"{', '.join(other)}; versions must match"
    seed, options = (
        f"{name} is {there['settings'][name] or 'unset'} there, {here['settings'][name] or 'unset'} here"
        for name in (_HASH_SEED, _PYTEST_OPTIONS)
    )
    if there["hash"] != here["hash"]:
        yield f"{seed}; start Python with the same number on both machines"
    if there["settings"][_PYTEST_OPTIONS] != here["settings"][_PYTEST_OPTIONS]:
        yield f"{options}; write these options on the command line"


def _commit_problem(here: Mapping[str, Any], there: Mapping[str, Any]) -> str | None:
    ours, theirs = here["commit"], there["commit"]
    if ours is None:
        return "this checkout is not a git repository; its commit cannot be compared"
    if ours.endswith(DIRTY):
        return "this checkout has uncommitted changes; commit them, and check that commit out there"
    if theirs is None:
        return f"{there['checkout']} there is not a git repository; its commit cannot be compared"
    if theirs.endswith(DIRTY):
        return f"{there['checkout']} there has uncommitted changes; commit or discard them"
    if theirs != ours:
        return f"the commit is {theirs[:12]} there, {ours[:12]} here; check out the same commit"
    if there["imported"] != theirs:
        return "its server still has another commit imported; restart it"
    return None


def _specs(text: str) -> Iterator[Any]:
    """execnet's specifications of the workers that a `--host` asks for, such as `2*ssh=HOST`."""
    count, star, single = text.partition("*")
    if not (star and count.isdigit()):
        count, single = "1", text
    for number in range(int(count)):
        try:
            spec: Any = execnet.XSpec(single)
        except (AttributeError, IndexError, ValueError) as error:
            raise usage_error("invalid-host", f"--host {text}: {_USAGE}") from error
        if spec.popen or not (spec.ssh or spec.socket):
            raise usage_error("invalid-host", f"--host {text}: {_USAGE}")
        if spec.socket and number:
            raise usage_error(
                "invalid-host", f"--host {text}: a socket server runs one worker; start one on another port too"
            )
        # execnet would make a directory that is missing, and xdist one of its own where none is named.
        spec.checkout, spec.chdir = spec.chdir, None
        spec.execmodel = "main_thread_only"  # xdist would otherwise make another specification of it
        yield spec


def _require_paths_of_the_checkout(config: pytest.Config) -> None:
    if config.getoption("--checkpoint"):
        raise usage_error(
            "conflicting-options", "--host cannot be used with --checkpoint, whose directory is on this machine only"
        )
    if config.invocation_params.dir != ROOT:
        raise usage_error("host-paths", f"--host: start the run in the checkout, {ROOT}")
    for argument in config.args:
        path = PurePath(argument.partition("::")[0])
        if path.is_absolute() or ".." in path.parts:
            raise usage_error("host-paths", f"--host: {argument} must be a path relative to the checkout")
