"""Untrusted input is refused in one sentence or used as data; it is never run, and its paths never lead elsewhere."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from conformance.cli.main import main
from conformance.core.contract import Mode
from conformance.core.errors import code_of
from conformance.core.files import architecture_file, read_regular_file
from conformance.core.paths import CONFIGS
from conformance.core.text import one_line
from conformance.core.time_scale import scaled
from conformance.exporters.resolve import UnknownExporterError, resolve
from conformance.failures.replay import Result, announcement, replay, replay_within
from conformance.matrix import delegation as baselines
from conformance.matrix.schema import load_matrix
from conformance.matrix.update import updated_matrix
from conformance.matrix.yaml_file import MatrixError
from conformance.models.fixtures import config_values, fixture_config
from conformance.process.worker import Limits
from conformance.records.bundle import CONSENT, FACTS, Bundle, read_bundle, write_bundle
from conformance.records.run import RunRecord
from conformance.runner import options
from conformance.runner.option_table import OPTIONS
from conformance.runner.options import add_options, read_options
from report.status_page import status_page
from report.versions_page import compatibility_page
from tests.report.samples import HOSTILE, partition, runs
from tests.report.samples import cell as recorded
from tests.report.samples import run as run_of
from tests.support.messages import printed, refused

pytestmark = pytest.mark.torch

_MATRIX = """\
schema_version: 2
retired: [{names: [mega], since: 5.0.0, reason: a reason that is long enough}]
architectures:
  llama: {tier: smoke, caches: [full_attention], known: [known], exercises: grouped-query attention}
"""
_CAUSES = """\
known:
  exporter: any
  when: {executorch: "<=1.5.1"}
  reason: a reason that is long enough
  fails:
    - {on: xnnpack, mode: decode, clauses: [PAR-1], signature: execute:logits-differ, at_most: 1.5e-3}
    - {on: [exported, xnnpack], mode: dynamic, blocks: export, signature: export:Error}
"""
_FUZZED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _is_one_sentence(text: str) -> bool:
    return bool(text) and text.isprintable() and len(text) < 2000


# Files


def test_only_ordinary_files_of_their_size_are_read(tmp_path: Path) -> None:
    plain, link, pipe = tmp_path / "plain", tmp_path / "link", tmp_path / "pipe"
    plain.write_bytes(b"12345678")
    link.symlink_to(plain)
    os.mkfifo(pipe)
    assert read_regular_file(plain, 8) == read_regular_file(link, 8) == b"12345678"
    for path, most, follow in ((plain, 7, True), (pipe, 8, True), (tmp_path, 8, True), (link, 8, False)):
        with pytest.raises(OSError, match=r"larger|regular|directory|symbolic"):
            read_regular_file(path, most, follow=follow)
    with pytest.raises(OSError, match="not a regular file"):
        read_regular_file(Path("/dev/zero"), 8)


@pytest.mark.parametrize("name", ["../llama", "/etc/passwd", "a/b", "..", "", "a\0b", "a\nb", "x" * 200])
def test_no_name_of_an_architecture_leads_elsewhere(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be the name") as caught:
        architecture_file(tmp_path, name)
    assert code_of(caught.value) == "invalid-name"


def test_each_known_architecture_can_be_named(tmp_path: Path) -> None:
    for name in load_matrix().architectures:
        assert architecture_file(tmp_path, name).parent == tmp_path


# The matrix and fixtures


def _refused(tmp_path: Path, rows: bytes, causes: bytes = _CAUSES.encode()) -> str | None:
    path = tmp_path / "models_matrix.yaml"
    path.write_bytes(rows)
    (tmp_path / "known_failures").mkdir(exist_ok=True)
    (tmp_path / "known_failures" / "owner.yaml").write_bytes(causes)
    try:
        load_matrix(path)
    except MatrixError as error:
        return str(error).removeprefix(str(tmp_path))
    return None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [" + "x," * 9 + "]\nb: [" + "*a," * 9 + "]\n", "anchors and aliases are not supported"),
        (
            "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1},' * 9}]\n" for n in range(1, 12)),
            "anchors and aliases",
        ),
        ("schema_version: 2\narchitectures: &all {llama: *all}\n", "anchors and aliases are not supported"),
        ("schema_version: 2\n<<: {architectures: {}}\n", "a key must be a name"),
        ("schema_version: 2\n? [a]\n: 1\n", "a key must be a name"),
        ("schema_version: 2\nschema_version: 2\n", "the key 'schema_version' is given twice"),
        ("a: " + "[" * 25 + "]" * 25, "nested deeper"),
        ("[" * 1000, "nested deeper"),
        ("[" * 100_000, "nested deeper"),
        ("schema_version: !!python/object/apply:os.mkdir [made]\narchitectures: {}\n", "is not supported"),
        ("schema_version: !!python/name:os.system ''\narchitectures: {}\n", "is not supported"),
        ("schema_version: !!int many\narchitectures: {}\n", "not valid YAML"),
        ("schema_version: 2026-99-99\narchitectures: {}\n", "is not supported"),
        ("schema_version: " + "9" * 5000 + "\narchitectures: {}\n", "not valid YAML"),
        ("schema_version: 2\narchitectures: !!omap [a: 1]\n", "is not supported"),
        ("schema_version: 2\n\a", "not valid YAML"),
        ('schema_version: 2\n"\\e[31m": 1\n', "No such key"),
        ("schema_version: 2\narchitectures: \udc80", "not UTF-8"),
        ("#" * (5 << 20), "larger than 4 MiB"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_a_hostile_matrix_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    hostile = text.encode(errors="surrogateescape")
    for refusal in (_refused(tmp_path, hostile), _refused(tmp_path, _MATRIX.encode(), hostile)):
        assert refusal
        assert _is_one_sentence(refusal)
    assert message in (_refused(tmp_path, hostile) or "")
    assert sorted(os.listdir(tmp_path)) == ["known_failures", "models_matrix.yaml"]


_yaml = st.sampled_from(
    ["&a ", "*a", "*known", "!!set ", "!!omap ", "!!binary ", "!x ", "<<: *known", "- ", "? ", ": ", "[", "]", "{", "}",
     "|\n", ">-\n", "---\n", "...\n", "%TAG ! x\n", "\t", "  ", "\n", "#", "'", '"', ".nan", "1e999", "0x", "null", "~",
     "2026-11-27", "\x00", "\u2028", "\ud7ff", "TODO", "any"]
) | st.text(max_size=5)  # fmt: skip


@pytest.mark.parametrize("damaged", [0, 1], ids=["rows", "causes"])
@_FUZZED
@given(st.integers(0, 400), st.integers(0, 40), st.lists(_yaml, max_size=4))
def test_a_damaged_matrix_is_read_or_refused(tmp_path: Path, damaged: int, at: int, gone: int, put: list[str]) -> None:
    texts = [_MATRIX, _CAUSES]
    texts[damaged] = texts[damaged][:at] + "".join(put) + texts[damaged][at + gone :]
    refusal = _refused(tmp_path, *(text.encode(errors="replace") for text in texts))
    assert refusal is None or _is_one_sentence(refusal)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("{", "invalid-json"),
        ("[1]", "invalid-json"),
        ("[" * 100_000, "invalid-json"),
        ('{"model_type": 7}', "invalid-fixture"),
    ],
)
def test_a_damaged_fixture_is_refused(tmp_path: Path, content: str, code: str) -> None:
    (tmp_path / "llama.json").write_text(content)
    with refused(code):
        fixture_config("llama", tmp_path)


# Run records


def _refuses(code: str, command: list[str], capture: pytest.CaptureFixture[str]) -> None:
    """A command refuses its input with one sentence, whose code is `code`."""
    capture.readouterr()
    ended = main.run(command)
    out, err = capture.readouterr()
    assert (ended, out) == (1, ""), (ended, out, err)
    assert _is_one_sentence(err[:-1]), err
    printed(err, code)


@pytest.mark.parametrize(
    "command", ["docs --status", "docs --compatibility", "matrix update", "matrix partitions", "matrix durations"]
)
@pytest.mark.parametrize("content", ["{", "[" * 100_000, '{"\\u001b[31m": 1}'])
def test_a_file_that_is_not_a_record_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, content: str
) -> None:
    (tmp_path / "run.json").write_text(content)
    _refuses("invalid-record", [*command.split(), str(tmp_path / "run.json")], capsys)
    _refuses("file-error", [*command.split(), "/dev/zero"], capsys)


@_FUZZED
@given(runs)
def test_any_text_of_a_record_is_data(tmp_path: Path, run: RunRecord) -> None:
    matrix = load_matrix()
    for use in (
        lambda: status_page([run]),
        lambda: compatibility_page([run]),
        lambda: updated_matrix(matrix, run),
        lambda: list(baselines.updated(run, {cell.architecture for cell in run.cells}, tmp_path / "partitions")),
    ):
        with contextlib.suppress(ValueError):  # which is what a command shows in one line
            use()
    outside = [path for path in tmp_path.iterdir() if path.name != "partitions"]
    assert not outside


def test_no_architecture_of_a_record_is_written_elsewhere(tmp_path: Path) -> None:
    made = partition({"aten.linear.default": 1}, {})
    hostile = run_of(recorded("LOW-1", architecture="../../llama", partition=made))
    with refused("invalid-name"):
        list(baselines.updated(hostile, {"../../llama"}, tmp_path / "a" / "b"))
    unsaid = run_of(recorded("LOW-1", partition=made))
    unsaid = dataclasses.replace(unsaid, environment=dataclasses.replace(unsaid.environment, packages={}))
    with refused("version-not-recorded"):
        list(baselines.updated(unsaid, {"llama"}, tmp_path / "a" / "b"))
    assert not list(tmp_path.iterdir())


# Bundles


def _bundle(**changes: Any) -> Bundle:
    facts: dict[str, Any] = {
        "schema_version": 1,
        "architecture": "llama",
        "subject": "reference",
        "backend": "exported",
        "mode": Mode.DECODE,
        "clause": "EXP-1",
        "stage": None,
        "signature": "export:x",
        "message": "it failed",
        "versions": {"torch": "0"},
        "config": config_values("llama"),
        "max_cache_len": 32,
        "calls": None,
        "examples": 1,
        "tolerance": 1e-5,
        "logits_scale": None,
    }
    return Bundle(**{**facts, **changes})


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that can be imported, and writes a file when it is."""
    sprung = tmp_path / "sprung"
    (tmp_path / "trap_to_import.py").write_text(f"open({str(sprung)!r}, 'w').close()\ndef export(*a, **k): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return sprung


def test_no_exporter_of_a_bundle_is_imported_unasked(trap: Path) -> None:
    bundle = _bundle(subject="trap_to_import:export")
    assert "exporter  trap_to_import:export, not part of the suite" in announcement(bundle)
    done = replay(bundle, None)
    assert done.result is Result.CANNOT_RUN
    assert f"add {CONSENT}" in done.message
    assert not trap.exists()
    assert replay(bundle, None, trusted=True).result is Result.STILL_FAILING
    assert trap.exists()


@pytest.mark.parametrize("command", ["replay", "locate"])
def test_the_command_asks_for_consent(
    tmp_path: Path, trap: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    folder = write_bundle(tmp_path / "bundles", _bundle(subject="trap_to_import:export"), {})
    assert main.run(["failure", command, str(folder)]) == 2
    out, _ = capsys.readouterr()
    assert out.index("replaying llama/trap_to_import:export/exported/decode/EXP-1") < out.index("CANNOT RUN: ")
    assert f"add {CONSENT}" in out
    assert not trap.exists()


@pytest.mark.parametrize(
    "config",
    [
        {"auto_map": {"AutoModelForCausalLM": "evil--model.Evil"}},
        {"attn_implementation": "evil/kernels"},
        {"_attn_implementation": "kernels-community/flash-attn"},
        {"text_config": {"experts_implementation": "evil/kernels"}},
        {"parts": [{"_name_or_path": "evil/model"}]},
    ],
)
def test_no_config_of_a_bundle_loads_code(config: dict[str, Any]) -> None:
    done = replay(_bundle(config={**config_values("llama"), **config}), None)
    assert done.result is Result.CANNOT_RUN
    assert "by which a model can load code" in done.message


def test_no_fixture_has_a_key_that_loads_code() -> None:
    from conformance.models.fixtures import code_keys

    assert not [path.stem for path in CONFIGS.glob("*.json") if list(code_keys(config_values(path.stem)))]


@pytest.mark.parametrize(
    ("config", "limits", "message"),
    [
        ({"hidden_size": 1 << 15, "intermediate_size": 1 << 15}, Limits(60, 1200), "over its limit of 1200 MiB"),
        ({"num_hidden_layers": 10**9}, Limits(2, 6000), "exceeded the 2 s limit"),
    ],
)
def test_a_model_beyond_all_measure_is_not_waited_for(config: dict[str, Any], limits: Limits, message: str) -> None:
    done = replay_within(limits, _bundle(config={**config_values("llama"), **config}), None)
    assert done.result is Result.CANNOT_RUN
    assert message in done.message


def test_within_limits_a_bundle_gets_a_verdict() -> None:
    done = replay_within(Limits(scaled(300), 6000), _bundle(), None)
    assert (done.result, done.message) == (Result.FIXED, "EXP-1 passes")


@pytest.mark.parametrize("name", HOSTILE)
def test_text_of_a_bundle_is_only_text(name: str) -> None:
    bundle = _bundle(architecture=name, clause=f"\x1b]0;{name}\a", versions={"\x1b[31m": name})
    done = replay(bundle, None)
    assert done.result is Result.CANNOT_RUN
    for text in (announcement(bundle), done.message):
        assert all(char.isprintable() or char == "\n" for char in text)


def test_a_bundle_is_an_ordinary_file_in_its_folder(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_bytes((write_bundle(tmp_path / "bundles", _bundle(), {}) / FACTS).read_bytes())
    for number, put in enumerate((lambda path: path.symlink_to(elsewhere), os.mkfifo, Path.mkdir)):
        folder = tmp_path / f"bundle-{number}"
        folder.mkdir()
        cast(Callable[[Path], None], put)(folder / FACTS)
        with refused("invalid-bundle"):
            read_bundle(folder)


# Findings


def _finding(path: Path, **changes: object) -> Path:
    facts = {
        "schema_version": 1,
        "architecture": "llama",
        "subject": "reference",
        "backend": "exported",
        "mode": "decode",
        "clause": "EXP-1",
        "overrides": {},
        "max_cache_len": 32,
        "signature": "x",
        "message": "x",
        "versions": {},
        "seed": 1,
    }
    path.write_text(json.dumps({**facts, **changes}))
    return path


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"architecture": "../../llama"}, "unknown-name"),
        ({"backend": "quantum"}, "unknown-name"),
        ({"clause": "PAR-99"}, "unknown-name"),
        ({"subject": "trap_to_import:export"}, "import-not-allowed"),
        ({"max_cache_len": 10**12}, "invalid-finding"),
        ({"stray": 1}, "invalid-finding"),
    ],
)
def test_a_hostile_finding_is_not_pinned(
    tmp_path: Path, trap: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object], code: str
) -> None:
    _refuses(code, ["explore", "pin", str(_finding(tmp_path / "finding.json", **changes))], capsys)
    assert not trap.exists()


# Command lines


@pytest.mark.parametrize(
    "name",
    ["a:b:c", ":x", ".a:b", "a.:b", "os:", "tests:programs.x", "tests.fault\x1by:x", "é è:x", "-:-", "a" * 5000 + ":x"],
)
def test_a_name_that_is_not_an_exporter_is_refused(name: str) -> None:
    with pytest.raises(UnknownExporterError) as caught:
        resolve(name)
    assert _is_one_sentence(one_line(str(caught.value)))


@pytest.mark.parametrize(
    "body", ["raise SystemExit(0)", "1 / 0", "def :", "raise RuntimeError('a\\nb')", "import nobody"]
)
def test_a_subject_that_cannot_be_imported_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    name = f"broken_{random.Random(body).randrange(10**9)}"
    (tmp_path / f"{name}.py").write_text(body)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UnknownExporterError) as caught:
        resolve(f"{name}:export")
    assert len(str(caught.value).splitlines()) == 1


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The matrix is read and checked once: for each of many command lines, it would take half a second."""
    known = load_matrix()
    monkeypatch.setattr(options, "load_matrix", lambda: known)
    monkeypatch.setattr(options, "_check_known_failures", lambda _: None)


class _Parser:
    """As much of pytest's parser as the suite's options need."""

    def __init__(self) -> None:
        self.plain = argparse.ArgumentParser(prog="pytest", exit_on_error=False)
        self.addoption = self.plain.add_argument

    def getgroup(self, *_: str) -> _Parser:
        return self


def _options(directory: Path, *arguments: str) -> None:
    """Read these options as a run does.

    Raises:
        pytest.UsageError: One of them is wrong.
    """
    parser = _Parser()
    add_options(cast(pytest.Parser, parser))
    parser.addoption("--hypothesis-seed")
    try:
        given = vars(parser.plain.parse_args(arguments))
    except argparse.ArgumentError as error:
        raise pytest.UsageError(str(error)) from error

    stored = {option.name: option.dest for option in OPTIONS if option.dest}

    def getoption(name: str, default: object = None) -> object:
        return given.get(stored.get(name, name.lstrip("-").replace("-", "_")), default)

    read_options(cast(pytest.Config, SimpleNamespace(getoption=getoption, rootpath=directory)))


_NAMES = ("arch", "subject", "backend", "mode", "clause", "tier", "examples", "time-limit", "memory-limit", "record",
          "store", "store-limit", "bundles", "hypothesis-seed")  # fmt: skip
_values = st.sampled_from(
    (*HOSTILE, "", " ", ",", ",,", "-1", "0", "²", "1_0", "1e3", "9" * 30, "9" * 5000, "nan", "\0", "all,", "llama,",
     ".", "..", "/", "reference,reference", "a:b", "xnnpack,exported")
) | st.text(max_size=12)  # fmt: skip


@pytest.mark.usefixtures("quick")
@_FUZZED
@given(st.lists(st.tuples(st.sampled_from(_NAMES), _values), min_size=1, max_size=3))
@example([("record", "")])
@example([("record", "\0")])
@example([("hypothesis-seed", "²")])
@example([("time-limit", "9" * 400)])
def test_any_options_are_taken_or_refused(tmp_path: Path, chosen: list[tuple[str, str]]) -> None:
    with contextlib.suppress(pytest.UsageError):  # any other error would fail the test
        _options(tmp_path, *(f"--{name}={value}" for name, value in chosen))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--output", ""], "invalid-output"),
        (["--output", "."], "invalid-output"),
        (["--hypothesis-seed", "²"], "invalid-number"),
        (["--backend", ","], "no-names"),
        (["--exporter", ","], "no-names"),
        (["--clause", "par-1"], "unknown-name"),
        (["--tier", "smoke,full"], "conflicting-options"),
        (["--exporter", "optimum"], "missing-package"),
        (["--clause", "PAR-2", "--mode", "decode"], "no-check"),
        (["--clause", "LOW", "--backend", "exported"], "no-check"),
        (["--clause", "RUN", "--backend", "vulkan"], "no-check"),
        (["--clause", "LOW-11", "--backend", "xnnpack"], "no-check"),
        (["--clause", "PAR-1", "--dtype", "float16"], "conflicting-options"),
    ],
)
def test_these_options_are_refused(tmp_path: Path, arguments: list[str], code: str) -> None:
    with refused(code):
        _options(tmp_path, *arguments)


def test_versions_that_cannot_work_together_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "incompatible", lambda: ["ExecuTorch 1.5.1 needs torch==2.13.*; installed: 2.12.0"])
    with refused("incompatible-versions"):
        _options(tmp_path)


def test_a_chapter_of_which_nothing_applies_is_refused() -> None:
    with refused("no-check"):
        options._clauses("EXP", options.NOT_OF_FILES)


@_FUZZED
@given(
    st.sampled_from(
        [
            "docs --check --status",
            "docs --check --compatibility",
            "matrix update",
            "matrix partitions",
            "matrix add",
            "failure replay",
            "failure locate",
            "explore pin",
            "explore run",
            "inspect partition",
            "model check",
            "report gate",
            "run",
            "",
        ]
    ),
    st.lists(_values.filter(lambda value: "llama" not in value), max_size=3),
)
def test_any_command_line_is_answered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, rest: list[str]
) -> None:
    # Of `run`, what follows "--" is pytest's.
    given = rest if command in ("", "run") or "docs" in command else ["--", *rest]
    monkeypatch.setattr(os, "execve", lambda *_: None)
    code = main.run([*command.split(), *given])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert code in (1, 2) or command == "run"
