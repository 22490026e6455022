"""Every deliberate fault, as data: what it is put into, and the clause that must catch it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from conformance.core.contract import Mode
from conformance.exporters.resolve import Exporter
from conformance.pipeline.backends import Backend
from tests.faults import exporters, left_behind, lowerings, metadata, programs, tokenizers, variations

DECODE, DYNAMIC = Mode.DECODE, Mode.DYNAMIC

#: Fault, architecture, mode, the clause that must catch it, and the signature it is caught with.
FAULTS: list[tuple[Callable[..., Any], str, Mode, str, str]] = [
    (programs.int32_position, "llama", DECODE, "EXP-1", "export:wrong-inputs"),
    (programs.last_token_only, "llama", DECODE, "EXP-1", "export:wrong-outputs"),
    (programs.cache_as_input, "llama", DECODE, "EXP-2", "export:cache-at-boundary"),
    (programs.returns_cache, "llama", DECODE, "EXP-3", "export:cache-returned"),
    (programs.cache_as_constant, "llama", DECODE, "EXP-3", "export:cache-not-a-buffer"),
    (programs.cache_twice, "llama", DECODE, "EXP-3", "export:cache-duplicated"),
    (programs.no_cache, "llama", DECODE, "EXP-3", "export:cache-missing"),
    (exporters.half_the_length, "llama", DYNAMIC, "EXP-5", "export:length-refused"),
    (exporters.ignores_dynamic_shapes, "llama", DYNAMIC, "EXP-5", "export:length-fixed"),
    (exporters.needs_examples, "llama", DECODE, "EXP-6", "export:TypeError"),
    (programs.mutates_input, "llama", DECODE, "EXP-3", "export:cache-not-a-buffer"),
    (programs.wrong_when_strict, "llama", DECODE, "EXP-4", "execute:logits-differ"),
    (programs.wrong_at_the_end_when_strict, "llama", DECODE, "EXP-4", "execute:logits-differ"),
    (exporters.changes_the_config_when_strict, "llama", DECODE, "EXP-4", "export:model-changed"),
    (exporters.without_examples_at_0_only, "llama", DECODE, "EXP-6", "execute:logits-differ"),
    (exporters.counts_exports, "llama", DECODE, "EXP-10", "export:programs-differ"),
    (exporters.trains, "llama", DECODE, "EXP-11", "execute:logits-differ"),
    (exporters.leaves_evaluation_mode, "llama", DECODE, "EXP-11", "export:mode-changed"),
    (exporters.cannot_be_saved, "llama", DECODE, "EXP-7", "export:"),
    (exporters.leaves_train_mode, "llama", DECODE, "EXP-8", "export:model-changed"),
    (exporters.changes_the_config, "llama", DYNAMIC, "EXP-8", "export:model-changed"),
    (exporters.moves_random_state, "llama", DECODE, "EXP-8", "export:model-changed"),
    (exporters.rounds_weights, "llama", DECODE, "EXP-8", "export:model-changed"),
    (left_behind.leaves_a_hook, "llama", DECODE, "EXP-8", "export:model-changed"),
    (left_behind.leaves_a_hook_on_saving, "llama", DYNAMIC, "EXP-8", "export:model-changed"),
    (left_behind.leaves_a_hook_on_a_weight, "llama", DECODE, "EXP-8", "export:model-changed"),
    (left_behind.leaves_a_global_hook, "llama", DECODE, "EXP-8", "export:process-changed:hooks"),
    (left_behind.patches_a_layer, "llama", DYNAMIC, "EXP-8", "export:process-changed:patches"),
    (left_behind.hides_an_inherited_method, "llama", DECODE, "EXP-8", "export:process-changed:patches"),
    (left_behind.patches_torch, "llama", DECODE, "EXP-8", "export:process-changed:patches"),
    (left_behind.replaces_an_attention, "llama", DECODE, "EXP-8", "export:process-changed:patches"),
    (left_behind.turns_determinism_on, "llama", DECODE, "EXP-8", "export:process-changed:settings"),
    (left_behind.changes_the_default_dtype, "llama", DECODE, "EXP-8", "export:process-changed:settings"),
    (left_behind.leaves_autocast_on, "llama", DECODE, "EXP-8", "export:process-changed:settings"),
    (left_behind.changes_a_setting_of_dynamo, "llama", DECODE, "EXP-8", "export:process-changed:settings"),
    (left_behind.takes_more_threads, "llama", DECODE, "EXP-8", "export:process-changed:settings"),
    (left_behind.registers_a_pytree, "llama", DECODE, "EXP-8", "export:process-changed:pytrees"),
    (left_behind.sets_a_variable, "llama", DECODE, "EXP-8", "export:process-changed:environment"),
    (exporters.accepts_anything, "llama", DECODE, "EXP-9", "export:misconfiguration-traced"),
    (programs.ignores_cache_position, "llama", DECODE, "PAR-1", "execute:logits-differ"),
    (programs.off_by_one, "llama", DECODE, "PAR-1", "execute:logits-differ"),
    (programs.zeroes_cache, "llama", DECODE, "PAR-1", "execute:logits-differ"),
    (programs.swaps_layers, "llama", DECODE, "PAR-1", "execute:logits-differ"),
    (programs.returns_constant, "llama", DECODE, "PAR-1", "execute:logits-differ"),
    (programs.rounds_to_bfloat16, "llama", DECODE, "PAR-1", "execute:logits-differ"),
    (programs.last_token_only, "llama", DECODE, "PAR-1", "execute:wrong-shape"),
    (programs.half_precision_cache, "llama", DECODE, "PAR-1", "execute:logits-differ"),
    (programs.loses_one_layer, "llama", DECODE, "PAR-1", "execute:logits-differ"),
    (programs.zeroes_token_0, "llama", DECODE, "PAR-1", "execute:logits-differ"),
    (programs.masks_padding, "llama", DECODE, "PAR-1", "execute:"),
    (programs.wrong_on_the_last_id, "llama", DECODE, "PAR-1", "execute:logits-differ"),
    (programs.wrong_on_repeats_in_a_chunk, "llama", DYNAMIC, "PAR-2", "execute:logits-differ"),
    (exporters.ignores_multipliers, "granite", DECODE, "PAR-1", "execute:logits-differ"),
    (exporters.derives_attention_scaling, "gemma2", DECODE, "PAR-1", "execute:logits-differ"),
    (exporters.forgets_key_multiplier, "falcon_h1", DECODE, "PAR-1", "execute:logits-differ"),
    (programs.reverses_chunks, "llama", DYNAMIC, "PAR-2", "execute:logits-differ"),
    (programs.keeps_what_followed, "llama", DECODE, "PAR-3", "execute:logits-differ"),
    (programs.keeps_its_state, "lfm2", DECODE, "PAR-4", "execute:logits-differ"),
    (programs.wrong_in_second_generation, "llama", DECODE, "PAR-4", "execute:logits-differ"),
    (programs.drops_window_after_wrap, "mistral", DECODE, "PAR-5", "execute:logits-differ"),
    (programs.last_slot_lost, "llama", DECODE, "PAR-6", "execute:logits-differ"),
    (programs.nan_at_the_end, "llama", DECODE, "PAR-6", "execute:not-finite"),
    (
        programs.clamps_position,
        "llama",
        DECODE,
        "PAR-7",
        "execute:accepted:position-after-the-cache+position-far-after",
    ),
    (programs.wraps_position, "llama", DECODE, "PAR-7", "execute:wrong-after:position-after-the-cache"),
    (programs.clamps_tokens, "llama", DECODE, "PAR-7", "execute:accepted:token-after-the-vocabulary+negative-token"),
    (programs.closes_gaps, "llama", DYNAMIC, "PAR-7", "execute:accepted:gap+backwards+position-twice"),
    (programs.trips_over_misuse, "llama", DECODE, "PAR-7", "execute:wrong-after:position-after-the-cache"),
    (programs.noisy, "llama", DECODE, "PAR-9", "execute:bytes-differ"),
    (programs.wrong_on_repeats, "llama", DECODE, "PAR-10", "execute:tokens-differ"),
    (exporters.shares_state, "llama", DECODE, "PAR-11", "execute:logits-differ"),
    (programs.mixes_rows, "llama", DECODE, "PAR-11", "execute:logits-differ"),
    (programs.wrong_in_other_rows, "llama", DECODE, "PAR-11", "execute:logits-differ"),
    (programs.wrong_in_the_third_row, "llama", DECODE, "PAR-11", "execute:logits-differ"),
    (programs.swaps_rows_in_chunks, "llama", DYNAMIC, "PAR-11", "execute:logits-differ"),
    (programs.wrong_after_150_calls, "llama", DECODE, "PAR-13", "execute:logits-differ"),
    (programs.wrong_from_the_8th_restart, "llama", DYNAMIC, "PAR-13", "execute:logits-differ"),
    (exporters.shares_state_between_loads, "llama", DECODE, "PAR-13", "execute:logits-differ"),
    (programs.wrong_when_repeated, "llama", DECODE, "PAR-12", "execute:logits-differ"),
]

#: The same of variations of fixtures, which the fixtures themselves do not show.
VARIATIONS: list[tuple[Callable[..., Any], str, Mode, str, str]] = [
    (variations.ignores_rotary_scaling, "llama+rope-yarn", DECODE, "PAR-1", "execute:logits-differ"),
    (variations.forgets_the_attention_factor, "llama+rope-yarn", DECODE, "PAR-1", "execute:logits-differ"),
    (variations.counts_positions_in_8_bits, "llama+long", DECODE, "PAR-1", "execute:logits-differ"),
    (variations.saturates_positions_at_127, "llama+long", DECODE, "PAR-1", "execute:logits-differ"),
    (variations.keeps_ids_in_8_bits, "llama+long", DECODE, "PAR-1", "execute:logits-differ"),
    (variations.rounds_the_window_up, "mistral+odd", DECODE, "PAR-5", "execute:logits-differ"),
    (variations.rounds_the_head_size_up, "mistral+odd", DECODE, "PAR-1", "execute:logits-differ"),
    (variations.rotates_in_half_precision, "llama+bfloat16", DECODE, "PAR-1", "execute:logits-differ"),
    (variations.masks_in_half_precision, "llama+bfloat16", DECODE, "PAR-1", "execute:logits-differ"),
    (variations.sums_in_half_precision, "llama+bfloat16", DECODE, "PAR-1", "execute:logits-differ"),
    (variations.drops_biases, "llama+bias", DECODE, "PAR-1", "execute:logits-differ"),
    (variations.drops_biases_of_outputs, "llama+bias", DECODE, "PAR-1", "execute:logits-differ"),
    (variations.unties_the_head, "llama+tied", DECODE, "PAR-1", "execute:logits-differ"),
    (variations.changes_the_embedding_of_a_tied_head, "llama+tied", DECODE, "PAR-1", "execute:logits-differ"),
    (variations.approximates_gelu, "llama+gelu", DECODE, "PAR-1", "execute:logits-differ"),
    (variations.takes_relu_for_gelu, "llama+gelu", DECODE, "PAR-1", "execute:logits-differ"),
    (variations.clamps_logits_to_float16, "gemma2+capped-logits", DECODE, "PAR-1", "execute:logits-differ"),
    (variations.clamps_logits_to_100, "gemma2+capped-logits", DECODE, "PAR-1", "execute:logits-differ"),
    (programs.wrong_in_the_third_row, "llama+batch", DECODE, "PAR-1", "execute:row-differs"),
    (programs.swaps_rows_in_chunks, "llama+batch", DYNAMIC, "PAR-2", "execute:row-differs"),
]

#: Faulty backend, architecture, the clause that must catch it, and the signature it is caught with.
LOWERINGS: list[tuple[Backend, str, str, str]] = [
    (lowerings.LAZY, "gpt2", "LOW-2", "lower:partition-incomplete"),
    (lowerings.TAKES_NOTHING, "gpt2", "LOW-3", "lower:heavy-operator-left-out:aten."),
    (lowerings.WITHOUT_LINEAR, "gpt2", "LOW-3", "lower:heavy-operator-left-out:aten.addmm.default"),
    (lowerings.HANDED_IN, "llama", "LOW-4", "lower:weights-handed-in"),
    (lowerings.MISLABELS, "gpt2", "LOW-4", "lower:weights-handed-in"),
    (lowerings.HOARDER, "gpt2", "LOW-4", "lower:stored-twice"),
    (lowerings.LEAVES_A_NORM_UNREAD, "llama", "LOW-4", "emit:unread"),
    (lowerings.LEAVES_A_BIAS_UNREAD, "gpt2", "LOW-4", "emit:unread"),
    (lowerings.COPIES_CACHES, "llama", "LOW-6", "emit:cache-copied"),
    (lowerings.TAKES_ALL, "llama", "LOW-6", "emit:cache-lost"),
    (lowerings.WASTEFUL, "llama", "LOW-7", "emit:memory-wasted"),
    (lowerings.UNSTEADY, "llama", "LOW-8", "emit:bytes-differ"),
    (lowerings.FORGETS_PASSES, "llama", "LOW-9", "lower:pass-without-effect"),
    (lowerings.TAKES_ALL, "llama", "LOW-10", "lower:undeclared-operator:aten."),
    (lowerings.HANDS_CACHES_THROUGH, "llama", "LOW-10", "lower:cache-update-in-delegate:aten.index_put.default"),
    (lowerings.CHANGES_NUMBERS, "llama", "PAR-1", "execute:logits-differ"),
    (lowerings.STALE_VIEWS, "deepseek_v3", "PAR-1", "execute:logits-differ"),
]

#: Faulty subject, mode, the clause that must catch it, and the signature; all are put into llama, on portable kernels.
#: A signature of None: the runner aborts, so the cell is a crash.
RUNNERS: list[tuple[Exporter, Mode, str, str | None]] = [
    (metadata.SILENT, DECODE, "RUN-1", "load:missing:get_max_seq_len+get_eos_ids"),
    (metadata.SILENT, DECODE, "RUN-2", "load:RuntimeError:Failed to create text llm runner"),
    (metadata.BOASTS, DECODE, "RUN-1", "load:untrue:get_max_seq_len+get_max_context_len"),
    (metadata.BOASTS, DECODE, "RUN-2", "execute:refused"),
    (metadata.UNDERSTATES, DECODE, "RUN-1", "load:untrue:get_max_context_len"),
    (metadata.UNDERSTATES, DECODE, "RUN-2", "execute:length-differs"),
    (metadata.ENDLESS, DECODE, "RUN-1", "load:missing:get_eos_ids"),
    (metadata.ENDLESS, DECODE, "RUN-2", "execute:length-differs"),
    (metadata.CLAIMS_TO_BE_DYNAMIC, DECODE, "RUN-1", "load:untrue:enable_dynamic_shape"),
    (metadata.CLAIMS_TO_BE_DYNAMIC, DECODE, "RUN-2", "execute:refused"),
    (metadata.DENIES_ITS_CACHE, DECODE, "RUN-1", "load:untrue:use_kv_cache"),
    (metadata.INT32_POSITION, DECODE, "RUN-2", "execute:refused"),
    (metadata.RETURNS_CACHE, DECODE, "RUN-2", None),
    (metadata.OFF_BY_ONE, DECODE, "RUN-2", "execute:tokens-differ"),
    (metadata.WRONG_IN_SECOND_GENERATION, DECODE, "RUN-3", "execute:tokens-differ"),
    (metadata.CLAIMS_AN_OPERATOR, DECODE, "RUN-1", "load:untrue:use_sdpa_with_kv_cache"),
    (metadata.HIDES_AN_OPERATOR, DECODE, "RUN-1", "load:untrue:use_sdpa_with_kv_cache"),
    (metadata.HIDES_THAT_IT_IS_DYNAMIC, DYNAMIC, "RUN-1", "load:missing:enable_dynamic_shape"),
    (metadata.SHORTENS_CALLS, DYNAMIC, "RUN-2", "execute:length-differs"),
]

#: Writes a tokenizer of so many ids to a directory; and the signature that RUN-4 catches it with, beside a llama.
TOKENIZERS: list[tuple[Callable[[Path, int], None], str]] = [
    (tokenizers.composes_accents, "load:reads-otherwise"),
    (tokenizers.takes_the_space_before, "load:reads-otherwise"),
    (tokenizers.strips_spaces, "load:writes-otherwise"),
    (tokenizers.unigrams, "load:tokenizer-not-read"),
    (tokenizers.has_more_ids_than_logits, "load:tokenizer-larger-than-logits"),
]
