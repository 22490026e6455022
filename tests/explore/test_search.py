"""Exploring finds what only some configs show, with the fewest changes that show it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig

from conformance.cli.main import main
from conformance.core.cells import Cell
from conformance.core.contract import Mode
from conformance.core.time_scale import scaled
from conformance.explore.findings import Pinned, pinned, read_finding, read_pins, write_finding, write_pins
from conformance.explore.search import UNDECODABLE, Explorer, Isolated, Judgement, Question, judged
from conformance.exporters.resolve import Exporter
from conformance.models.fixtures import MAX_CACHE_LEN, cache_length, config_values
from conformance.models.variations import Space, Variation, build, variations
from conformance.pipeline.builder import Builder
from conformance.reference import convert_and_export_with_cache
from tests.faults import programs
from tests.support.messages import printed, refused

pytestmark = [pytest.mark.torch, pytest.mark.process]

DECODE = Question("faulty", modes=[Mode.DECODE], seed=3, clauses=["PAR-1"])
SECONDS = scaled(240)


def wrong_with_one_key_value_head(model: Any, *examples: Any, **options: Any) -> Any:
    """Right for every fixture: none but multi-query models has a single key-value head."""
    wrong = model.config.num_key_value_heads == 1
    return (programs.off_by_one if wrong else convert_and_export_with_cache)(model, *examples, **options)


def wrong_with_large_heads(model: Any, *examples: Any, **options: Any) -> Any:
    """Right for every fixture: their heads have 8 elements."""
    wrong = model.config.head_dim > 8
    return (programs.zeroes_cache if wrong else convert_and_export_with_cache)(model, *examples, **options)


def dies_with_a_long_cache(model: Any, *examples: Any, **options: Any) -> Any:
    """Right for every fixture: their caches have 32 positions."""
    wrong = cache_length(model) > MAX_CACHE_LEN
    return (programs.kills_the_process if wrong else convert_and_export_with_cache)(model, *examples, **options)


@pytest.fixture
def isolated(request: pytest.FixtureRequest) -> Iterator[Isolated]:
    judge = Isolated([Exporter("faulty", request.param)])
    yield judge
    judge.close()


@pytest.mark.parametrize(
    ("isolated", "name", "values", "signature"),
    [
        (wrong_with_one_key_value_head, "num_key_value_heads", [1], "execute:logits-differ"),
        (wrong_with_large_heads, "head_dim", [10, 12, 16], "execute:logits-differ"),
        (dies_with_a_long_cache, "max_cache_len", [33, 48], "export:crash"),
    ],
    indirect=["isolated"],
)
def test_fault_of_some_configs_is_found_and_shrunk(
    isolated: Isolated, name: str, values: list[int], signature: str, tmp_path: Path
) -> None:
    result = Explorer("llama", DECODE, isolated, directory=tmp_path).explore(SECONDS, most=1)
    ((finding, path),) = result.findings
    assert list(finding.variation.changes) == [name], str(result)
    assert finding.variation.changes[name] in values
    assert (finding.clause, finding.signature) == ("PAR-1", signature)
    assert read_finding(path) == finding
    assert path.name == "llama-1.json"


class Pretended:
    """Judges variations by what they change, without any model."""

    def __init__(self, discards: str = "") -> None:
        self.discards = discards
        self.seen: list[str] = []

    def __call__(self, architecture: str, variation: Variation, cell: Cell) -> Judgement:
        self.seen.append(str(variation))
        if self.discards in variation.changes:
            return Judgement(discarded=f"refused: {self.discards}")
        if cell.clause == "PAR-1" and variation.changes.get("num_key_value_heads") == 1:
            return Judgement("execute:logits-differ", "one head")
        if cell.clause == "PAR-6" and variation.max_cache_len > MAX_CACHE_LEN:
            return Judgement("execute:not-finite", "a long cache")
        return Judgement()


def test_goes_on_for_other_signatures_until_nothing_is_left(tmp_path: Path) -> None:
    judge = Pretended(discards="mlp_bias")
    result = Explorer("llama", Question("reference", seed=3), judge, directory=tmp_path).explore(scaled(5))
    changes = ((finding.clause, tuple(finding.variation.changes.items())) for finding, _ in result.findings)
    assert sorted(changes) == [
        ("PAR-1", (("num_key_value_heads", 1),)),
        ("PAR-6", (("max_cache_len", 33),)),
    ]
    assert result.discarded["refused: mlp_bias"] > 0
    assert result.again > 0
    assert {path.name for path in tmp_path.iterdir()} == {"llama-1.json", "llama-2.json"}


def test_what_eager_decoding_itself_gets_wrong_is_counted_and_named(tmp_path: Path) -> None:
    def judge(_: str, variation: Variation, cell: Cell) -> Judgement:
        return Judgement(discarded=UNDECODABLE) if "rope_parameters" in variation.changes else Judgement()

    result = Explorer("llama", DECODE, judge, directory=tmp_path).explore(scaled(2))
    assert len(result.undecodable) == result.discarded[UNDECODABLE] > 0
    text = str(result)
    assert f"differs without a cache in {len(result.undecodable)}" in text
    for variation in result.undecodable:
        assert "rope_parameters" in variation.changes
        assert f"with     {variation}" in text
        assert f"×    {', '.join(sorted(variation.changes))}\n" in f"{text}\n"


def test_reason_is_that_of_the_oracle() -> None:
    """It differs by its signature alone."""
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    variation = Variation({"rope_parameters": rope, "max_position_embeddings": 16})
    cell = next(DECODE.cells("llama"))
    builder = Builder(
        {"faulty": Exporter("faulty", convert_and_export_with_cache)}, build=lambda name: build(name, variation)
    )
    assert judged(builder, cell).discarded == UNDECODABLE


def test_seed_repeats_the_variations(tmp_path: Path) -> None:
    seen = []
    for seed in (5, 5, 6):
        judge = Pretended()
        Explorer("llama", Question("reference", seed=seed), judge, directory=tmp_path).explore(SECONDS, most=1)
        seen.append(judge.seen)
    assert seen[0] == seen[1] != seen[2]


def test_what_is_pinned_is_not_a_finding(tmp_path: Path) -> None:
    pin = Pinned(
        subject="reference",
        backend="exported",
        mode=Mode.DECODE,
        clause="PAR-1",
        overrides={"num_key_value_heads": 1},
        max_cache_len=MAX_CACHE_LEN,
        signature="execute:logits-differ",
        reason="pretended",
    )
    question = Question("reference", modes=[Mode.DECODE], seed=3, clauses=["PAR-1"])
    result = Explorer("llama", question, Pretended(), [pin], tmp_path).explore(2)
    assert not result.findings
    assert result.known > 0


def test_what_the_fixture_fails_at_is_not_a_finding(tmp_path: Path) -> None:
    def judge(_: str, variation: Variation, cell: Cell) -> Judgement:
        return Judgement("execute:logits-differ") if cell.clause == "PAR-1" else Judgement()

    result = Explorer("llama", DECODE, judge, directory=tmp_path).explore(2)
    assert result.fixture == ["PAR-1 exported decode: execute:logits-differ"]
    assert not result.findings


def test_time_that_is_up_keeps_the_best_so_far(tmp_path: Path) -> None:
    explorer: Explorer

    def judge(_: str, variation: Variation, cell: Cell) -> Judgement:
        if variation.changes:
            explorer._deadline = 0.0  # now
        return Judgement("execute:logits-differ") if variation.changes else Judgement()

    explorer = Explorer("llama", DECODE, judge, directory=tmp_path)
    result = explorer.explore(SECONDS)
    assert len(result.findings) == 1
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "deepseek_v3", "lfm2", "gpt2", "mixtral"])
@settings(database=None, deadline=None, derandomize=True, max_examples=50, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_variations_are_of_what_the_config_has(architecture: str, data: st.DataObject) -> None:
    variation = data.draw(variations(architecture))
    present = AutoConfig.for_model(**config_values(architecture)).get_text_config(decoder=True).to_dict()
    assert set(variation.overrides) <= set(present)
    assert all(present[name] != value for name, value in variation.overrides.items())
    held = {**present, **variation.overrides}
    heads, shared = held.get("num_attention_heads", 1), held.get("num_key_value_heads", 1)
    assert heads % shared == 0
    assert len(held.get("layer_types") or []) in (0, held.get("num_hidden_layers"))
    assert held.get("num_experts_per_tok", 0) <= held.get("num_local_experts", held.get("n_routed_experts", 9))
    json.dumps(variation.overrides)


def test_overrides_reach_the_text_config_of_a_composite_model() -> None:
    model = build("gemma3", Variation({"num_key_value_heads": 1}, max_cache_len=16))
    assert model.config.get_text_config(decoder=True).num_key_value_heads == 1
    assert cache_length(model) == 16


def test_everything_asked_for_varies() -> None:
    varied = set(Space("gemma3_text").attributes)
    assert varied >= {"layers", "layer types", "heads", "head size", "key-value heads", "windows", "rope"}
    assert varied >= {"tie_word_embeddings", "attention_bias", "vocab_size", "cache length", "activation"}


def test_finding_becomes_a_pinned_variation(tmp_path: Path) -> None:
    result = Explorer("llama", Question("reference", seed=3), Pretended(), directory=tmp_path).explore(SECONDS, most=1)
    ((finding, path),) = result.findings
    assert write_finding(tmp_path, finding) == path, "the same finding has one file"
    other = dataclasses.replace(finding, signature="execute:not-finite")
    assert write_finding(tmp_path, other).name == "llama-2.json"
    pins = pinned((), finding, finding.signature)
    write_pins("llama", pins, tmp_path / "pins")
    assert read_pins("llama", tmp_path / "pins") == pins
    assert pins[0].variation == finding.variation
    with refused("already-pinned"):
        pinned(pins, finding, None)


def test_a_variation_that_cannot_be_judged_is_not_pinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = Explorer("llama", Question("reference", seed=3), Pretended(), directory=tmp_path).explore(SECONDS, most=1)
    ((_, path),) = result.findings
    monkeypatch.setattr(Isolated, "__call__", lambda *_: Judgement(discarded=UNDECODABLE))
    assert main.run(["explore", "pin", str(path)]) == 1
    printed(capsys.readouterr().err, "not-a-candidate")


def test_file_that_is_not_a_finding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "llama-1.json"
    path.write_text('{"schema_version": 1}')
    with refused("invalid-finding"):
        read_finding(path)
    with refused("file-error"):
        read_finding(tmp_path / "none.json")
