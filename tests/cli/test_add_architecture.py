"""Architectures that the matrix lacks, or that the installed Transformers lacks, or that cannot decode at all."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from conformance.checks.case import Case, require_undecodable
from conformance.cli import add_architecture
from conformance.cli.add_architecture import draft
from conformance.core.cells import EAGER, Cell
from conformance.core.verdicts import CellFailedError, NotApplicableError, Stage, Verdict
from conformance.matrix.discovery import registered
from conformance.matrix.known_failures import TODO, Undecodable
from conformance.matrix.schema import MATRIX_PATH, Expectation, Tier, load_matrix
from conformance.models.fixtures import build_model, default_config, fixture_config
from conformance.models.tiny_config import layer_kinds, tiny
from conformance.pipeline.builder import Builder
from conformance.records.run import load_run
from tests.support.harness import copied_suite, python_module, suite
from tests.support.messages import printed

pytestmark = pytest.mark.process

_REASON = "a reason that is long enough to be one"
#: Rows of what Transformers 5.24.0 has added to what is pinned.
_NEWER = {"apertus1p5_text", "dory", "exaone", "inkling2_loop_text", "lara_mini", "sarvam_mla", "sarvam_moe"}


def _cell(architecture: str) -> Cell:
    return Cell(architecture, None, EAGER, None, "PAR-8")


def test_registered_agrees_with_transformers() -> None:
    assert registered() == tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def test_every_registered_architecture_has_a_row() -> None:
    assert set(load_matrix().architectures) - set(registered()) == _NEWER
    assert not set(registered()) - set(load_matrix().architectures)


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "qwen3_next", "llama4_text", "bert", "mamba", "gpt2"])
def test_shrunk_config_has_two_layers_of_each_kind(architecture: str) -> None:
    published = default_config(architecture)
    values = tiny(published)
    config = AutoConfig.for_model(**{**values, "model_type": architecture}).get_text_config(decoder=True)
    kinds = Counter(layer_kinds(config))
    assert set(kinds) == set(layer_kinds(published.get_text_config(decoder=True)))
    assert all(count >= 2 for count in kinds.values())
    assert config.vocab_size == 64
    json.dumps(values)


def test_draft_lists_what_it_tried() -> None:
    made = draft("qwen3")
    assert (made.row.tier, made.row.caches, made.row.known) == (Tier.FULL, ("full_attention",), ())
    assert "grouped-query attention" in made.row.exercises
    assert "normalised queries and keys" in made.row.exercises
    assert made.text == f"  qwen3: {{tier: full, caches: [full_attention], exercises: {made.row.exercises}}}\n"
    assert made.tried[-1] == "decoded with a static cache: agrees with the forward pass without cache"


def test_draft_reports_that_a_fixture_magnifies_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    config = fixture_config("zamba2")
    config.rms_norm_eps = 1e-5  # as published; the fixture's is larger for this reason
    monkeypatch.setattr(add_architecture, "build", lambda _: build_model(config))
    said = draft("zamba2").tried[-1]
    # 3.9e-06 or 7.3e-06, by the machine's order of sums.
    assert re.match(r"float32 puts its logits off by [3-9]\.\de-06 of their scale, and correct", said)


def test_draft_of_what_cannot_decode_leaves_the_reason_to_a_person() -> None:
    made = draft("openai-gpt")
    assert made.cause is not None
    assert (made.cause.reason, made.cause.fails) == (TODO, (Undecodable("eager:static-cache-decoding-differs"),))
    assert made.row.known == ("openai-gpt-undecodable",)
    assert "openai-gpt-undecodable:\n" in made.text


@pytest.mark.parametrize(
    ("arguments", "exit_code", "code"),
    [(["qwen3"], 1, "row-exists"), (["qwen33", "--force"], 2, "unknown-name")],
)
def test_command_refuses_in_a_sentence(arguments: list[str], exit_code: int, code: str) -> None:
    ended = python_module("conformance", "matrix", "add", *arguments)
    assert ended.returncode == exit_code
    printed(ended.stderr, code)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copied_suite(tmp_path)


def _remove_arcee(checkout: Path) -> None:
    """Take an architecture out of the matrix and of the variations."""
    for path in (checkout / "models_matrix.yaml", *(checkout / "fixtures/variations").glob("*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(line for line in lines if not line.startswith("  arcee:")), encoding="utf-8")


def test_header_names_what_is_not_judged(checkout: Path) -> None:
    retired = f"retired:\n  - {{names: [arcee], since: 99.0.0, reason: {_REASON}}}\n"
    _remove_arcee(checkout)
    matrix = checkout / "models_matrix.yaml"
    matrix.write_text(matrix.read_text(encoding="utf-8").replace("retired:\n", retired), encoding="utf-8")
    named = suite("--collect-only", "--arch", "arcee", "--clause", "SEN-2", "-n0", cwd=checkout).stdout
    assert "arcee/eager/SEN-2" in named
    assert "run only with --arch" not in named
    for path in (checkout / "conformance/checks").rglob("test_*.py"):
        path.unlink()  # they import torch, and what is printed before them is all that is looked at
    message = suite("--collect-only", "--tier", "full", "--clause", "SEN-2", "-n0", cwd=checkout).stdout
    assert "so not run: apertus1p5_text, dory, " in message
    assert "run only with --arch: arcee" in message


def test_unlisted_architecture_fails_the_run_and_is_added_by_the_command(checkout: Path) -> None:
    matrix = checkout / "models_matrix.yaml"
    _remove_arcee(checkout)
    (checkout / "fixtures/configs/arcee.json").unlink()
    smoke = ("--clause", "SEN-2,PAR-8", "-n0", "--tier", "smoke")
    ended = suite(*smoke, cwd=checkout)
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED, ended.stdout
    assert "arcee is registered by Transformers and has no row in models_matrix.yaml" in ended.stdout
    assert "conformance matrix add arcee" in ended.stdout
    verdicts = {cell.id: cell for cell in load_run(checkout / "build/conformance/run.json").cells}
    assert (verdicts["arcee/eager/SEN-2"].verdict, verdicts["arcee/eager/SEN-2"].signature) == (
        Verdict.FAIL,
        "build:unlisted",
    )
    assert verdicts["arcee/eager/PAR-8"].verdict is Verdict.PASS  # tried with a shrunk config

    added = python_module("conformance", "matrix", "add", "arcee", cwd=checkout)
    assert added.returncode == 0, added.stderr
    # Known failures of other exporters are not what it tries.
    without = re.sub(r"^(  arcee: .*?), known: \[.*?\]", r"\1", MATRIX_PATH.read_text(encoding="utf-8"), flags=re.M)
    assert matrix.read_text(encoding="utf-8") == without, "a row in its old place"
    ended = suite(*smoke, cwd=checkout)
    assert ended.returncode == 0, ended.stdout


def test_a_reason_that_is_still_todo_does_not_stop_the_next_command(checkout: Path) -> None:
    matrix = checkout / "models_matrix.yaml"
    row = "  another: {tier: full, caches: [full_attention], known: [another-undecodable], exercises: something}\n"
    matrix.write_text(MATRIX_PATH.read_text(encoding="utf-8") + row, encoding="utf-8")
    cause = "another-undecodable:\n  exporter: any\n  reason: TODO\n  fails:\n    - {undecodable: 'eager:x'}\n"
    (checkout / "known_failures" / "unexplained.yaml").write_text(cause, encoding="utf-8")
    ended = python_module("conformance", "matrix", "add", "arcee", cwd=checkout)
    printed(ended.stderr, "row-exists")


def test_architecture_that_transformers_lacks_is_not_applicable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conformance.pipeline.stages.registered", lambda: ("llama",))
    with pytest.raises(NotApplicableError, match="not in transformers 5"):
        _ = Builder().architecture("gpt2").model


def test_undecodable_is_tried() -> None:
    case = Case(_cell("openai-gpt"), Builder(), examples=1)
    known = Expectation("cause", "eager:static-cache-decoding-differs", _REASON)
    with pytest.raises(NotApplicableError, match=_REASON):
        require_undecodable(case, known)
    with pytest.raises(CellFailedError) as otherwise:
        require_undecodable(case, Expectation("cause", "eager:KeyError:'x'", _REASON))
    assert otherwise.value.signature == known.signature


def test_undecodable_that_decodes_is_stale() -> None:
    with pytest.raises(CellFailedError, match="remove cause from `known`") as stale:
        require_undecodable(Case(_cell("llama"), Builder(), examples=1), Expectation("cause", "eager:x", _REASON))
    assert (stale.value.stage, stale.value.signature) == (Stage.EAGER, "eager:decodes-after-all")
