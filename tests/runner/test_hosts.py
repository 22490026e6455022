"""A run shared with another machine: nothing but the connection between them, and all that was found comes back."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import execnet
import pytest

from conformance.core.cells import Cell
from conformance.core.contract import Mode
from conformance.core.paths import ROOT
from conformance.failures.transport import packed, unpack
from conformance.records.bundle import read_bundle
from conformance.records.environment import versions
from conformance.records.run import load_run
from conformance.runner.hosts import _for_elsewhere, require_alike
from tests.support.harness import suite

pytestmark = pytest.mark.process

_NAMESPACE = "conformance-test"
_CELL = Cell("llama", "reference", "exported", Mode.DECODE, "PAR-1")


@contextlib.contextmanager
def _server(where: Path, address: str, prefix: Sequence[str] = (), hash_seed: str = "0") -> Iterator[str]:
    """An execnet server with a directory of its own, as it would be begun on another machine; gives its port."""
    where.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [*prefix, sys.executable, "-u", "-m", "execnet.script.socketserver", f"{address}:{port}"]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    with subprocess.Popen(command, cwd=where, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            assert "Entering Accept loop" in server.stdout.readline()
            yield port
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


def _shared(tmp_path: Path, host: str) -> None:
    record, bundles = tmp_path / "run.json", tmp_path / "failures"
    ended = suite(
        *("--arch", "gpt2,llama", "--clause", "PAR-1", "--backend", "exported", "--mode", "decode"),
        *("--subject", "reference,tests.faults.programs:zeroes_cache", "-n1", "--host", host),
        *("--record", str(record), "--bundles", str(bundles), "--store", str(tmp_path / "store")),
    )
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED, ended.stdout + ended.stderr
    run = load_run(record)
    found = {(cell.architecture, cell.subject): cell for cell in run.cells}
    assert run.run.complete
    for name in ("gpt2", "llama"):
        assert found[name, "reference"].verdict == "pass"
        failed = found[name, "tests.faults.programs:zeroes_cache"]
        assert failed.verdict == "fail"
        assert failed.bundle
        assert Path(failed.bundle).parent == bundles
        assert read_bundle(Path(failed.bundle)).architecture == name
    # What the other machine judged it judged in a copy of the checkout, where xdist had put it.
    copies = list((tmp_path / "other").rglob("models_matrix.yaml"))
    assert [path.parent.name for path in copies] == [ROOT.name]
    assert not list((tmp_path / "other").rglob("build/ci"))


def test_a_run_is_shared_between_network_namespaces(tmp_path: Path) -> None:
    prefix = ("ip", "netns", "exec", _NAMESPACE)
    with _namespace() as address, _server(tmp_path / "other", address, prefix) as port:
        _shared(tmp_path, f"socket={address}:{port}")


def test_a_machine_with_another_hash_seed_is_refused(tmp_path: Path) -> None:
    with _server(tmp_path / "other", "127.0.0.1", hash_seed="7") as port:
        ended = suite("--arch", "llama", "--clause", "SEN-2", "-n1", "--host", f"socket=127.0.0.1:{port}")
    assert ended.returncode == pytest.ExitCode.USAGE_ERROR, ended.stdout + ended.stderr
    assert "PYTHONHASHSEED is 7 there and 0 here" in ended.stderr + ended.stdout


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
    with pytest.raises(ValueError, match="cannot have a file called"):
        unpack(tmp_path / "failures", _CELL, {name: ""})
    assert not (tmp_path / "failures").exists()


class _Gateway:
    """The other end of a connection, which answers with what it has."""

    def __init__(self, spec: str, found: dict[str, str]) -> None:
        self.spec = execnet.XSpec(spec)
        self._found = found

    def remote_exec(self, _: str) -> Self:
        return self

    def send(self, _: object) -> None: ...

    def receive(self) -> tuple[dict[str, str], str | None]:
        return self._found, os.environ.get("PYTHONHASHSEED")

    def waitclose(self) -> None: ...


def test_a_machine_with_other_versions_is_refused() -> None:
    require_alike(_Gateway("socket=host:1", versions()))
    require_alike(_Gateway("popen", {}))  # this machine has what it has
    older = {**versions(), "torch": "2.12.0"}
    del older["torchao"]
    with pytest.raises(pytest.UsageError) as caught:
        require_alike(_Gateway("socket=host:1", older))
    here = versions()
    told = f"it has torch 2.12.0 and not {here['torch']}, torchao – and not {here['torchao']}, as here"
    assert str(caught.value) == f"--host socket=host:1: {told}"


def test_paths_become_absolute_and_values_no_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = (
        "suite",
        "suite/test_a.py::test_b",
        "--record",
        "old.json",
        "-n1",
        "--resume",
        "--store=x",
        "--clause",
        "PAR",
    )
    expected = (
        *(f"{tmp_path}/suite", f"{tmp_path}/suite/test_a.py::test_b", "--record=old.json", "-n1", "--resume"),
        *("--store=x", "--clause=PAR"),
    )
    assert _for_elsewhere(given, given[:2]) == expected
