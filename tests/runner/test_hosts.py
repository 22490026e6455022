"""A run shared with another machine: each has a checkout, which must be equal, and only the connection is shared."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from conformance.core.cells import Cell
from conformance.core.contract import Mode
from conformance.core.paths import ROOT
from conformance.failures.transport import packed, unpack
from conformance.records.bundle import read_bundle
from conformance.records.environment import versions
from conformance.records.run import load_run
from conformance.runner.hosts import differences
from tests.support.harness import copied_suite, python_module, suite
from tests.support.messages import printed, refused

pytestmark = pytest.mark.process

_NAMESPACE = "conformance-test"
_CELL = Cell("llama", "reference", "exported", Mode.DECODE, "PAR-1")
#: Cells that need no torch: what is refused is refused before any is judged.
_FEW = ("--arch", "gpt2,llama", "--clause", "SEN-2", "--backend", "exported")
_COMMIT = ("-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "--quiet", "--allow-empty", "-m")


class _Checkouts(NamedTuple):
    """A checkout of the suite for each machine, at the same commit."""

    here: Path
    there: Path


def _git(checkout: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(checkout), *arguments], check=True, capture_output=True)


@pytest.fixture
def checkouts(tmp_path: Path) -> _Checkouts:
    here, there = tmp_path / "here", tmp_path / "there"
    copied_suite(here)
    shutil.copytree(ROOT / "tests", here / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for command in (("init", "--quiet"), ("add", "."), (*_COMMIT, "all")):
        _git(here, *command)
    _git(here, "clone", "--quiet", str(here), str(there))
    return _Checkouts(here, there)


@contextlib.contextmanager
def _server(address: str, prefix: Sequence[str] = (), **environment: str) -> Iterator[str]:
    """An execnet server outside of any checkout, started as on another machine; gives its `--host`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*prefix, sys.executable, "-u", "-m", "execnet.script.socketserver", f"{address}:{port}"]
    with subprocess.Popen(
        command, cwd="/", env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout
            assert "Entering Accept loop" in server.stdout.readline()
            yield f"socket={address}:{port}"
        finally:
            server.kill()


@contextlib.contextmanager
def _namespace() -> Iterator[str]:
    """A network namespace that stands for another machine; gives its address."""
    ip = ("ip", "netns", "exec", _NAMESPACE, "ip")
    steps = [
        ("ip", "netns", "add", _NAMESPACE),
        ("ip", "link", "add", "conf0", "type", "veth", "peer", "name", "conf1"),
        ("ip", "link", "set", "conf1", "netns", _NAMESPACE),
        ("ip", "addr", "add", "10.77.0.1/30", "dev", "conf0"),
        ("ip", "link", "set", "conf0", "up"),
        (*ip, "addr", "add", "10.77.0.2/30", "dev", "conf1"),
        (*ip, "link", "set", "conf1", "up"),
    ]
    try:
        for step in steps:
            if subprocess.run(step, capture_output=True, check=False).returncode:
                pytest.skip(f"this machine does not allow `{' '.join(step)}`")
        time.sleep(0.5)  # until the link is up
        yield "10.77.0.2"
    finally:
        subprocess.run(["ip", "netns", "del", _NAMESPACE], capture_output=True, check=False)


def _changed(checkout: Path) -> list[str]:
    """Files in a checkout that were not cloned, but for what Python and a run write."""
    listed = subprocess.run(
        ["git", "-C", str(checkout), "status", "--porcelain", "--untracked-files=all"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [line for line in listed.splitlines() if "__pycache__" not in line and not line.startswith("?? build/")]


def test_a_run_is_shared_between_network_namespaces(tmp_path: Path, checkouts: _Checkouts) -> None:
    record, bundles = tmp_path / "run.json", tmp_path / "failures"
    with _namespace() as address, _server(address, ("ip", "netns", "exec", _NAMESPACE)) as host:
        ended = suite(
            *("--arch", "gpt2,llama", "--clause", "PAR-1", "--backend", "exported", "--mode", "decode"),
            *("--subject", "reference,tests.faults.programs:zeroes_cache"),
            *("-n1", "--host", f"{host}//chdir={checkouts.there}", "--record", str(record), "--bundles", str(bundles)),
            cwd=checkouts.here,
        )
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED, ended.stdout + ended.stderr
    run = load_run(record)
    cells = {(cell.architecture, cell.subject): cell for cell in run.cells}
    assert run.run.complete
    for name in ("gpt2", "llama"):
        assert cells[name, "reference"].verdict == "pass"
        failed = cells[name, "tests.faults.programs:zeroes_cache"]
        assert failed.verdict == "fail"
        assert failed.bundle
        assert Path(failed.bundle).parent == bundles
        assert read_bundle(Path(failed.bundle)).architecture == name
    # The other machine judged one of the two in its own checkout, to which nothing was copied.
    assert len(list((checkouts.there / "build/conformance/failures").iterdir())) == 1
    assert _changed(checkouts.there) == []
    assert "rsync" not in ended.stdout + ended.stderr


def test_a_run_may_have_workers_by_ssh_alone(
    tmp_path: Path, checkouts: _Checkouts, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ssh").write_text('#!/bin/sh\nshift 2  # -C and the host\ncd /\nexec sh -c "$*"\n')
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    record = tmp_path / "run.json"
    ended = python_module(
        *("pytest", "-p", "tests.faults.miniature", "tests/faults/miniature_checks.py", "-v", "-n0", *_FEW),
        *("--host", f"2*ssh=other//python={sys.executable}//chdir={checkouts.there}", "--record", str(record)),
        cwd=checkouts.here,
    )
    assert ended.returncode == pytest.ExitCode.OK, ended.stdout + ended.stderr
    assert load_run(record).run.complete
    assert "[host0]" in ended.stdout
    assert "[host1]" in ended.stdout
    assert _changed(checkouts.there) == []


def _commit(checkout: Path) -> None:
    _git(checkout, *_COMMIT, "another")


def _edit(checkout: Path) -> None:
    (checkout / "models_matrix.yaml").open("a").write("\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda checkouts: _commit(checkouts.there), r"the commit is \w{12} there, \w{12} here; check out the same"),
        (lambda checkouts: _edit(checkouts.there), "there there has uncommitted changes; commit or discard them"),
        (lambda checkouts: _edit(checkouts.here), "this checkout has uncommitted changes; commit them, and check"),
        (lambda checkouts: shutil.rmtree(checkouts.there / ".git"), "there there is not a git repository"),
        (lambda checkouts: shutil.rmtree(checkouts.there), r"No such file or directory.*; add //chdir=/path"),
        (
            lambda checkouts: shutil.rmtree(checkouts.there / "conformance"),
            r"(No module named|it has imported the one in).*; add //chdir=/path",
        ),
    ],
)
def test_another_checkout_is_refused(
    checkouts: _Checkouts, change: Callable[[_Checkouts], object], message: str
) -> None:
    change(checkouts)
    with _server("127.0.0.1") as host:
        _refused(checkouts, host, message)


def test_other_versions_are_refused(checkouts: _Checkouts, tmp_path: Path) -> None:
    metadata = tmp_path / "older" / "torch-2.0.0.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.0.0\n")
    with _server("127.0.0.1", PYTHONPATH=str(tmp_path / "older")) as host:
        message = f": torch is 2.0.0 there, {versions()['torch']} here; versions must match"
        _refused(checkouts, host, re.escape(message))


def test_another_hash_seed_is_refused(checkouts: _Checkouts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    with _server("127.0.0.1", PYTHONHASHSEED="7") as host:
        _refused(checkouts, host, "PYTHONHASHSEED is 7 there, 0 here")
        # What execnet sets is set when Python has hashed its strings.
        _refused(checkouts, host, "PYTHONHASHSEED is 0 there, 0 here; start Python with", "//env:PYTHONHASHSEED=0")


def test_a_server_that_has_imported_another_commit_is_refused(checkouts: _Checkouts) -> None:
    with _server("127.0.0.1") as host:
        _edit(checkouts.there)
        _refused(checkouts, host, "uncommitted changes")
        _git(checkouts.there, "checkout", "--quiet", ".")
        _refused(checkouts, host, "still has another commit imported; restart it")


def _refused(checkouts: _Checkouts, host: str, message: str, more: str = "") -> None:
    spec = f"{host}//chdir={checkouts.there}{more}"
    ended = suite(*_FEW, "-n1", "--host", spec, cwd=checkouts.here)
    assert ended.returncode == pytest.ExitCode.USAGE_ERROR, ended.stdout + ended.stderr
    assert re.search(message, printed(ended.stderr, "host-differs"))
    assert "Traceback" not in ended.stderr + ended.stdout


def test_a_bundle_comes_back_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    contents = {"bundle.json": b"{}", "program.pt2": bytes(range(256)) * 64}
    for name, content in contents.items():
        (tmp_path / "folder" / name).write_bytes(content)
    for _ in range(2):  # one of an earlier run is replaced
        folder = unpack(tmp_path / "failures", _CELL, packed(tmp_path / "folder"))
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == contents
    assert [path.name for path in (tmp_path / "failures").iterdir()] == [folder.name]


@pytest.mark.parametrize("name", ["../escape", "a/b", "", "..", "a\\b"])
def test_a_bundle_cannot_write_elsewhere(tmp_path: Path, name: str) -> None:
    with refused("invalid-bundle"):
        unpack(tmp_path / "failures", _CELL, {name: ""})
    assert not (tmp_path / "failures").exists()


_FACTS = {
    "checkout": "/suite",
    "commit": "0" * 40,
    "imported": "0" * 40,
    "versions": {"Python": "3.11", "torch": "2.13.0", "torchao": "0.17.0"},
    "hash": "1",
    "settings": {"PYTHONHASHSEED": "0", "PYTEST_ADDOPTS": None},
}


@pytest.mark.parametrize(
    ("changed", "sentences"),
    [
        ({}, []),
        ({"checkout": "/elsewhere"}, []),
        (
            {"versions": {"Python": "3.12", "torch": "2.12.0"}},
            [
                "Python is 3.12 there, 3.11 here, torch is 2.12.0 there, 2.13.0 here, torchao is missing there, 0.17.0 "
                "here; versions must match"
            ],
        ),
        (
            {"settings": {"PYTHONHASHSEED": "0", "PYTEST_ADDOPTS": "--examples 1"}},
            ["PYTEST_ADDOPTS is --examples 1 there, unset here; write these options on the command line"],
        ),
        (
            {"hash": "2", "settings": {"PYTHONHASHSEED": None, "PYTEST_ADDOPTS": None}},
            ["PYTHONHASHSEED is unset there, 0 here; start Python with the same number on both machines"],
        ),
        # Of another commit, nothing else is known to mean the same.
        (
            {"commit": "1" * 40, "versions": {}, "settings": {}},
            ["the commit is 111111111111 there, 000000000000 here; check out the same commit"],
        ),
    ],
)
def test_each_difference_is_one_sentence(changed: Mapping[str, Any], sentences: list[str]) -> None:
    assert list(differences(_FACTS, {**_FACTS, **changed})) == sentences


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("conformance", "--host", "somewhere"), "invalid-host"),
        (("conformance", "--host", "popen"), "invalid-host"),
        (("conformance", "--host", "2*socket=a:1"), "invalid-host"),
        (("conformance", "--host", "socket=a:1", "--checkpoint", "x"), "conflicting-options"),
        ((f"{ROOT}/conformance", "--host", "socket=a:1"), "host-paths"),
        (("conformance", "--host", "socket=127.0.0.1:1"), "host-unreachable"),
    ],
)
def test_what_cannot_be_shared_is_refused_in_a_sentence(arguments: tuple[str, ...], code: str) -> None:
    ended = python_module("pytest", *arguments, *_FEW, "-n1")
    assert ended.returncode == pytest.ExitCode.USAGE_ERROR, ended.stdout + ended.stderr
    printed(ended.stderr, code)


def test_a_shared_run_starts_in_the_checkout(tmp_path: Path) -> None:
    ended = python_module("pytest", str(ROOT / "conformance"), *_FEW, "-n1", "--host", "socket=a:1", cwd=tmp_path)
    assert ended.returncode == pytest.ExitCode.USAGE_ERROR, ended.stdout + ended.stderr
    printed(ended.stderr, "host-paths")
