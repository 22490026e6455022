"""Times a case's programs in turns, in one process with one thread: `python -m benchmarks.programs.timing REQUEST`.

First each program decodes one text from the beginning of its cache to the end, and its logits are compared with those
of eager Transformers without a cache. Then the calls are repeated in short blocks, one side after the other, so that
what disturbs the machine disturbs them all.
"""

from __future__ import annotations

import copy
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from benchmarks.programs.cases import BLOCK, EAGER, LIMITS, PROMPT, SIDES, Case
from benchmarks.programs.results import Made, Row, SideResult, Timing, made_of, values_of
from benchmarks.programs.system import peak_bytes, resident_bytes
from conformance.core.contract import Mode
from conformance.core.text import one_line
from conformance.models.fixtures import build_model, config_of
from conformance.pipeline.backends import BACKENDS
from conformance.process.fork import collect, ending

#: Blocks of calls of each side, for each figure.
_ROUNDS = 7
#: Seconds after which a side is called no more for one figure, and after which it is given up to fill its cache.
_MOST_S = 60.0
_MOST_FILLING_S = 1200.0
#: Bytes that are read to measure the bandwidth: more than any cache of a processor.
_READ_BYTES = 512 << 20
_READS = 5
#: The same model at 4 bits per weight: a scale of 16 bits for each group of 32.
_GROUP_SIZE = 32
_BITS_QUANTISED = 4 + 16 / _GROUP_SIZE
_SHOWN = 240


class Runner(Protocol):
    """One side's model, ready to be called."""

    def call(self, ids: torch.Tensor, position: int) -> torch.Tensor:
        """Token ids, int64 [1, seq], the first of which is at `position`; returns logits [1, seq, vocab]."""

    def rewind(self, position: int) -> None:
        """Make the next call one at `position`; not timed."""


class ProgramRunner:
    """A program in ExecuTorch's runtime, whose cache is its own and is written where a call says."""

    def __init__(self, path: Path) -> None:
        from executorch.runtime import Runtime

        self._program = Runtime.get().load_program(path)
        method = self._program.load_method("forward")
        if method is None:
            raise RuntimeError("the program has no method 'forward'")
        self._method = method

    def call(self, ids: torch.Tensor, position: int) -> torch.Tensor:
        """See `Runner.call`."""
        logits: torch.Tensor = self._method.execute((ids, torch.arange(position, position + ids.shape[1])))[0]
        return logits

    def rewind(self, position: int) -> None:
        """See `Runner.rewind`: a call says where it is."""


class EagerRunner:
    """The Transformers model, with the cache that it makes by itself."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._caches: dict[int, Any] = {}
        self._cache: Any = None
        self._position = 0

    def call(self, ids: torch.Tensor, position: int) -> torch.Tensor:
        """See `Runner.call`."""
        with torch.inference_mode():
            outputs = self._model(input_ids=ids, past_key_values=self._cache, use_cache=True)
        self._cache = outputs.past_key_values
        self._position = position + ids.shape[1]
        logits: torch.Tensor = outputs.logits
        return logits

    def rewind(self, position: int) -> None:
        """See `Runner.rewind`: positions that are rewound to for the first time have to be where it is."""
        if position == 0:
            self._cache, self._position = DynamicCache(config=self._model.config), 0
            return
        if position == self._position and position not in self._caches:
            self._caches[position] = copy.deepcopy(self._cache)
        with torch.inference_mode():
            self._cache, self._position = copy.deepcopy(self._caches[position]), position

    @property
    def cache_bytes(self) -> int:
        """Of the tensors that it has cached."""
        found = (value for layer in self._cache.layers for value in vars(layer).values())
        tensors = [value for each in found for value in _tensors(each)]
        return sum({value.data_ptr(): value.nbytes for value in tensors if value.numel()}.values())


@dataclass(slots=True)
class _Calls:
    """Nanoseconds of each call, by the clock of the CPU and on the wall."""

    tokens: int = 1
    cpu: list[int] = field(default_factory=list)
    wall: list[int] = field(default_factory=list)

    def timed(self, call: Callable[[], torch.Tensor]) -> torch.Tensor:
        cpu, wall = time.process_time_ns(), time.perf_counter_ns()
        result = call()
        self.cpu.append(time.process_time_ns() - cpu)
        self.wall.append(time.perf_counter_ns() - wall)
        return result

    @property
    def seconds(self) -> float:
        return sum(self.wall) / 1e9

    @property
    def timing(self) -> Timing | None:
        if not self.cpu:
            return None
        return Timing(statistics.median(self.cpu) / 1e9, statistics.median(self.wall) / 1e9, len(self.cpu), self.tokens)


class Comparison:
    """How far logits are from those of the eager model without a cache, over every position that it is shown."""

    def __init__(self, expected: torch.Tensor) -> None:
        self._expected = expected
        self._difference = self._scale = 0.0

    def see(self, logits: torch.Tensor, position: int) -> None:
        """Logits of shape [1, seq, vocab], the first of the token at `position`."""
        got = logits[0].float()
        expected = self._expected[position : position + len(got)].float()
        self._difference += float((got - expected).square().sum(dtype=torch.float64))
        self._scale += float(expected.square().sum(dtype=torch.float64))

    @property
    def error(self) -> float:
        """Root mean square of the differences over that of the expected logits; infinite if a logit is not a number."""
        error = (self._difference / self._scale) ** 0.5
        return error if error == error else float("inf")


def main(request: str) -> int:
    """Time the programs that the request names, and write the row."""
    asked = json.loads(Path(request).read_text(encoding="utf-8"))
    programs = {name: (Path(path), made_of(made)) for name, (path, made) in asked["programs"].items()}
    row = measured(Case.of_values(asked["case"]), programs, asked["absent"], eager=asked["eager"])
    Path(asked["answer"]).write_text(json.dumps(values_of(row)), encoding="utf-8")
    return 0


def measured(
    case: Case,
    programs: Mapping[str, tuple[Path, Made]],
    absent: Mapping[str, str],
    *,
    eager: bool,
    rounds: int = _ROUNDS,
) -> Row:
    """The row of a case.

    Args:
        case: The case.
        programs: By side, each program's path and how it was made.
        absent: Of the other sides, why they have none.
        eager: Whether the eager model is timed, too.
        rounds: Blocks of each kind of call.
    """
    one_thread()
    started = datetime.now(UTC).isoformat(timespec="seconds")
    ids = _text(case)
    peaks: dict[str, int] = {}
    why: dict[str, str] = {}
    for name, (path, _) in programs.items():
        peaks[name], problem = _peak_of(case, path, ids)
        why |= {name: problem} if problem else {}
    bandwidth = read_bandwidth()
    model = build_model(
        config_of(case.shape.values, case.shape.name), case.cache, dtype=getattr(torch, case.model_dtype)
    )
    weights = weight_bytes(model, quantised=case.dtype == "8da4w")
    eager_model = oracle(model, case)
    expected: dict[str | None, torch.Tensor] = {None: _logits(eager_model, ids)}
    scales = {name: SIDES[name].scales for name in programs if name in SIDES and case.dtype == "8da4w"}
    for own in filter(None, scales.values()):
        expected[own] = _logits(oracle(model, case, own), ids)
    results = {name: SideResult(absent=why) for name, why in absent.items()}
    runners: dict[str, Runner] = {}
    for name, (path, made) in programs.items():
        if name in why:
            results[name] = SideResult(made, absent=why[name])
        else:
            runners[name] = ProgramRunner(path)
    eager_side = EagerRunner(eager_model)
    runners[EAGER.name] = eager_side
    cached: list[int] = []
    errors: dict[str, float] = {}
    filled: dict[str, bool] = {}
    for name, runner in runners.items():
        comparison = Comparison(expected[scales.get(name)])
        try:
            filled[name] = _follow(case, runner, ids, comparison, cached if runner is eager_side else [])
        except Exception as error:  # whatever the runtime or the model raises
            why[name] = f"fails: {type(error).__name__}: {one_line(str(error), _SHOWN)}"
            continue
        errors[name] = off = comparison.error
        if off > LIMITS[case.dtype]:
            why[name] = f"void: its logits are off by {off:.2g} of their scale, above {LIMITS[case.dtype]:g}"
    sound = {
        name: runner for name, runner in runners.items() if name not in why and (eager or runner is not eager_side)
    }
    end = _alternate({name: runner for name, runner in sound.items() if filled[name]}, ids, case.cache - BLOCK, rounds)
    bandwidth = max(bandwidth, read_bandwidth())
    start = _alternate(sound, ids, 0, rounds)
    prompt = _alternate(sound, ids[:, : case.prompt], 0, rounds, case.prompt) if case.mode is Mode.DYNAMIC else {}
    bandwidth = max(bandwidth, read_bandwidth())
    for name in runners:
        if name == EAGER.name and not eager:
            continue
        done = name in sound
        results[name] = SideResult(
            made=programs[name][1] if name in programs else None,
            error=errors.get(name),
            start=start[name].timing if done else None,
            end=end[name].timing if name in end else None,
            prompt=prompt[name].timing if name in prompt else None,
            peak_bytes=peaks.get(name),
            absent=why.get(name, "" if filled[name] else f"end: filling the cache takes over {_MOST_FILLING_S:.0f} s"),
            void=errors.get(name, 0.0) > LIMITS[case.dtype],
        )
    return Row(
        shape=case.shape.name,
        dtype=case.dtype,
        cache=case.cache,
        mode=str(case.mode),
        started=started,
        bandwidth=bandwidth,
        weight_bytes=weights,
        start_cache_bytes=cached[0],
        end_cache_bytes=cached[-1],
        sides=results,
    )


def oracle(model: PreTrainedModel, case: Case, scales: str | None = None) -> PreTrainedModel:
    """The eager model whose logits a program has to give: the model itself, or a copy that is quantised.

    Args:
        model: The model in floating point.
        case: Says how its programs are quantised.
        scales: torchao's name of how a group's scale is chosen, where that is not as the suite's recipe does. With
            4-bit weights by `hqq_scale_only`, four layers of SmolLM2's shape are 0.4 from the same by our recipe.
    """
    prepare = BACKENDS[case.backend].prepare
    if scales is None:
        return prepare(model) if prepare else model
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, PerGroup, quantize_
    from torchao.utils import unwrap_tensor_subclass

    config = Int8DynamicActivationIntxWeightConfig(
        weight_dtype=getattr(torch, "int4"),  # noqa: B009 - torch's stubs do not know it
        weight_granularity=PerGroup(_GROUP_SIZE),
        weight_scale_dtype=torch.bfloat16,  # XNNPACK narrows them to that, whatever they were
        intx_choose_qparams_algorithm=scales,
    )
    quantised = copy.deepcopy(model)
    quantize_(
        quantised,
        config,
        filter_fn=lambda module, _: isinstance(module, nn.Linear) and module.in_features % _GROUP_SIZE == 0,
    )
    unwrapped: PreTrainedModel = unwrap_tensor_subclass(quantised)
    return unwrapped


def one_thread() -> None:
    """Have torch and ExecuTorch compute with one thread, and load ExecuTorch's kernels that a program may call.

    Raises:
        RuntimeError: ExecuTorch keeps more threads.
    """
    import executorch.extension.llm.custom_ops.custom_ops
    import executorch.kernels.quantized  # noqa: F401
    from executorch.extension.pybindings import portable_lib

    torch.set_num_threads(1)
    portable_lib._unsafe_reset_threadpool(1)
    if portable_lib._threadpool_get_thread_count() != 1:
        raise RuntimeError("ExecuTorch's thread pool has more than one thread")


def read_bandwidth() -> float:
    """Bytes a second of CPU time at which one thread reads memory: the best of several sums."""
    buffer = torch.ones(_READ_BYTES // 4)
    calls = _Calls()
    for _ in range(_READS):
        calls.timed(buffer.sum)
    return buffer.nbytes / (min(calls.cpu) / 1e9)


def weight_bytes(model: PreTrainedModel, *, quantised: bool) -> int:
    """Bytes of the weights that a token reads.

    An embedding is read one row at a time, unless the output projection is the same tensor, which is read as a whole.

    Args:
        model: The model in floating point.
        quantised: Count linear layers at 4 bits, as torchao's recipe has them.
    """
    sizes: dict[int, float] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            key, size = parameter.data_ptr(), float(parameter.nbytes)
            if isinstance(module, nn.Embedding):
                sizes.setdefault(key, size / module.num_embeddings)
            elif quantised and isinstance(module, nn.Linear) and module.in_features % _GROUP_SIZE == 0:
                sizes[key] = parameter.numel() * _BITS_QUANTISED / 8
            else:
                sizes[key] = size
    return round(sum(sizes.values()))


def _follow(case: Case, runner: Runner, ids: torch.Tensor, comparison: Comparison, cached: list[int]) -> bool:
    """Decode the whole text, comparing logits; returns whether it came to the end.

    `cached` is given the bytes of an eager cache near the beginning and near the end.
    """
    length = PROMPT if case.mode is Mode.DYNAMIC or isinstance(runner, EagerRunner) else 1
    began = time.monotonic()
    runner.rewind(0)
    position = 0
    end = case.cache - BLOCK
    while position < case.cache:
        if position == end:
            runner.rewind(end)
        step = 1 if position < BLOCK or position >= end else min(length, end - position)
        comparison.see(runner.call(ids[:, position : position + step], position), position)
        position += step
        if isinstance(runner, EagerRunner) and position in (BLOCK, case.cache):
            cached.append(runner.cache_bytes)
        if time.monotonic() - began > _MOST_FILLING_S:
            return False
    return True


def _alternate(
    runners: Mapping[str, Runner], ids: torch.Tensor, position: int, rounds: int, length: int = 1
) -> dict[str, _Calls]:
    """Call all sides in turns, with a block of calls each, from `position` on; the first block is not timed."""
    calls = {name: _Calls(length) for name in runners}
    names = list(runners)
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            if calls[name].seconds > _MOST_S and turn > 1:
                continue
            runner = runners[name]
            runner.rewind(position)
            kept = calls[name] if turn else _Calls()
            count = 1 if length > 1 else BLOCK if turn else 2
            for at in range(position, position + count * length, length):
                part = ids[:, at : at + length]
                # mypy infers no types of a lambda's defaults, which bind the loop's variables.
                kept.timed(lambda runner=runner, part=part, at=at: runner.call(part, at))  # type: ignore[misc]
    return calls


def _peak_of(case: Case, path: Path, ids: torch.Tensor) -> tuple[int, str]:
    """Bytes that become resident in a process that loads the program and calls it, and what went wrong there."""

    def work() -> Iterator[tuple[int, str]]:
        before = resident_bytes()
        try:
            runner = ProgramRunner(path)
            runner.call(ids[:, : case.prompt if case.mode is Mode.DYNAMIC else 1], 0)
        except Exception as error:  # whatever the runtime raises
            yield 0, f"fails: {type(error).__name__}: {one_line(str(error), _SHOWN)}"
        else:
            yield peak_bytes() - before, ""

    with open(os.devnull, "wb") as output:
        found, code = collect(work, output=output.fileno(), seconds=int(_MOST_FILLING_S))
    return found[0] if found else (0, f"fails: the process that loaded it {ending(code)}")


def _logits(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Of a forward pass without a cache, shape [seq, vocab]."""
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0]
        return logits


def _text(case: Case) -> torch.Tensor:
    """Token ids, int64 [1, cache], drawn once for all."""
    size = case.shape.values["vocab_size"]
    return torch.randint(0, size, (1, case.cache), generator=torch.Generator().manual_seed(0))


def _tensors(value: object) -> Iterable[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for each in value for tensor in _tensors(each)]
    if isinstance(value, dict):
        return [tensor for each in value.values() for tensor in _tensors(each)]
    return []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
