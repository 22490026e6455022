"""`python -m tests.support.mutation`: does the suite notice a changed expression of the reference? Takes hours.

Each mutant is judged in a forked child, which begins with torch imported and the reference not yet: the suite's checks
on exported programs, the reference's own tests, and one lowered program, of these the quickest that reach its line. The
first one that fails kills the mutant. Results are appended to a file as they come, and a second run goes on from there;
to begin anew, remove `build/mutation.*`.
"""

from __future__ import annotations

import argparse
import ast
import importlib.abc
import importlib.util
import json
import os
import random
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from conformance.core.paths import ROOT
from conformance.core.time_scale import scaled
from conformance.process.fork import collect

REFERENCE = ROOT / "conformance" / "reference"

#: Architectures whose exported programs are judged: between them they reach the lines that a program is made by.
ARCHITECTURES = (
    *("llama", "lfm2", "gemma2", "mixtral", "falcon", "gpt_oss", "gemma3n_text", "llama4_text"),
    *("deepseek_v32", "qwen3_next", "mamba", "mamba2", "bert", "camembert", "biogpt"),
)
#: Judged on a lowered program too, for the metadata and what only lowering shows.
LOWERED = ("llama", "mixtral")
#: The suite's clauses in the order in which they are tried, by backend; the rest needs exports of its own.
EXPORTED_CLAUSES = ("EXP-1", "EXP-3", "PAR-1", "PAR-2", "PAR-4", "PAR-7", "PAR-6", "EXP-5", "EXP-8", "EXP-9", "EXP-6")
STRICT_CLAUSES = ("EXP-4",)
LOWERED_CLAUSES = ("LOW-1", "LOW-4", "LOW-6", "PAR-1", "PAR-7", "RUN-1", "RUN-2")
EXAMPLES = 3

#: Seconds of processor time for one trial of a mutant: one that loops for ever is caught by this, a busy machine not.
_CPU_SECONDS = 120
#: Seconds after which a trial that waits for ever is ended.
_SECONDS = scaled(3600)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One changed expression.

    Args:
        path: Of the module, relative to the checkout.
        line: The first line of what is changed.
        before, after: The expression, as it was and as it is.
        source: The whole module with the change.
    """

    path: str
    line: int
    before: str
    after: str
    source: str

    @property
    def name(self) -> str:
        """What tells it from all others."""
        return f"{self.path}:{self.line}: {self.before} → {self.after}"


@dataclass(frozen=True, slots=True)
class Trial:
    """Something that fails on a faulty reference.

    Args:
        name: For readers.
        lines: Of the reference's functions, as (path, line), that it calls.
        seconds: How long it takes where nothing fails.
    """

    name: str
    lines: frozenset[tuple[str, int]]
    seconds: float

    @property
    def is_test(self) -> bool:
        """Whether it is a file of the reference's own tests."""
        return self.name.endswith(".py")


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a mutant; `killed_by` is None for a survivor."""

    mutant: str
    killed_by: str | None
    seconds: float


def mutants(root: Path = REFERENCE) -> Iterator[Mutant]:
    """Every mutant of the modules below `root`, by mutmut's operators, in the order of the source."""
    import libcst as cst
    from libcst.metadata import MetadataWrapper, PositionProvider
    from mutmut.mutation.mutators import mutation_operators, operator_string

    class Collector(cst.CSTVisitor):  # type: ignore[misc]  # mypy runs without libcst
        """Unlike mutmut's own it changes decorated functions and constants of modules too: no trampoline is needed."""

        METADATA_DEPENDENCIES = (PositionProvider,)

        def __init__(self) -> None:
            super().__init__()
            self.found: list[tuple[int, cst.CSTNode, cst.CSTNode]] = []

        def on_visit(self, node: cst.CSTNode) -> bool:
            if isinstance(node, cst.Annotation | cst.Decorator | cst.ImportFrom | cst.Import | cst.Raise):
                return False  # words of errors are tested by what tests look for
            if isinstance(node, cst.Call) and getattr(node.func, "value", "") in ("isinstance", "len"):
                return False  # as mutmut does: what comes of these fails at once
            if isinstance(node, cst.Assign) and getattr(node.targets[0].target, "value", "") == "__all__":
                return False
            line = self.get_metadata(PositionProvider, node, None)
            for kind, operator in mutation_operators if line else ():
                if isinstance(node, kind):
                    # Of a string, upper and lower case show what the first change shows.
                    changed = list(operator(node))[: 1 if operator is operator_string else None]
                    self.found += [(line.start.line, node, mutated) for mutated in changed]
            return True

    for path in sorted(root.rglob("*.py")):
        wrapper = MetadataWrapper(cst.parse_module(path.read_text(encoding="utf-8")))
        collector = Collector()
        wrapper.visit(collector)
        code = wrapper.module.code_for_node
        for line, before, after in collector.found:
            source = wrapper.module.deep_replace(before, after)
            assert isinstance(source, cst.Module)
            name = str(path.relative_to(ROOT))
            yield Mutant(name, line, code(before).strip(), code(after).strip(), source.code)


def sample(found: Sequence[Mutant], count: int, seed: int) -> list[Mutant]:
    """`count` of them, the same ones each time; a longer sample begins with the shorter one."""
    order = list(found)
    random.Random(seed).shuffle(order)
    return order[:count]


def chosen(mutant: Mutant, trials: Iterable[Trial]) -> list[Trial]:
    """What reaches the mutant's line, quickest first: all tests, and the quickest and the most thorough program.

    The latter reaches most of the mutant's module. For a mutant outside all functions, what reaches its
    module counts.
    """
    trials = list(trials)
    reach = [trial for trial in trials if (mutant.path, mutant.line) in trial.lines]
    reach = reach or [trial for trial in trials if _reached(trial, mutant.path)]
    picked = {trial.name: trial for trial in reach if trial.is_test}
    programs = [trial for trial in reach if not trial.is_test]
    if programs:
        quickest = min(programs, key=lambda trial: trial.seconds)
        thorough = max(programs, key=lambda trial: (_reached(trial, mutant.path), -trial.seconds))
        picked |= {trial.name: trial for trial in (quickest, thorough)}
    return sorted(picked.values(), key=lambda trial: trial.seconds)


def _reached(trial: Trial, path: str) -> int:
    return sum(reached == path for reached, _ in trial.lines)


def share_killed(results: Sequence[Result]) -> float:
    """From 0 to 1."""
    return sum(result.killed_by is not None for result in results) / len(results) if results else 0.0


def report(results: Sequence[Result]) -> str:
    """The survivors, then the share that was killed."""
    lines = [f"survived  {result.mutant}" for result in results if result.killed_by is None]
    killed = len(results) - len(lines)
    return "\n".join([*lines, f"{killed} of {len(results)} mutants killed, {share_killed(results):.1%}"])


# What follows is called in children.


def _steps(name: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """What a trial does, in turn, each with a name; imports the reference."""
    if name.endswith(".py"):
        yield name, lambda: _own_tests(name)
        return
    architecture, _, kind = name.partition(" ")
    from conformance.core.contract import CHECKED, Mode
    from conformance.exporters.resolve import resolve
    from conformance.pipeline.builder import Builder
    from tests.support import harness

    harness.EXAMPLES = EXAMPLES
    exporter = resolve("reference")
    builder = Builder({"reference": exporter})
    backend = "portable" if kind == "portable" else "exported"
    clauses = {"portable": LOWERED_CLAUSES, "strict": STRICT_CLAUSES}.get(kind, EXPORTED_CLAUSES)
    modes = {clause.id: clause.modes for clause in CHECKED}
    for mode in Mode:
        for clause in clauses:
            if mode in modes[clause] and (kind != "portable" or mode is Mode.DECODE):

                def judge(clause: str = clause, mode: Mode = mode) -> object:
                    return harness.judge(clause, architecture, exporter, mode=mode, backend=backend, builder=builder)

                yield f"{architecture} {backend} {mode} {clause}", judge


def _own_tests(path: str) -> None:
    import pytest

    arguments = [path, "-n0", "-x", "-q", "-p", "no:cacheprovider", "--hypothesis-profile=ci"]
    code = pytest.main(arguments)
    if code != pytest.ExitCode.OK:
        raise RuntimeError(f"exit code {code}")


def _names() -> tuple[str, ...]:
    tests = (str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests" / "reference").rglob("test_*.py")))
    return (*tests, *ARCHITECTURES, *(f"{name} portable" for name in LOWERED), "llama strict")


def _observe(name: str) -> Iterator[tuple[list[tuple[str, int]], float, list[str]]]:
    """One trial of the reference as it is: the lines it runs, its seconds, and the steps that fail."""
    import coverage

    measured = coverage.Coverage(data_file=None, include=[f"{REFERENCE}/**"])
    began = time.monotonic()
    with measured.collect():
        failing = [step for step, error in _tried(name, frozenset()) if error]
    seconds = time.monotonic() - began
    data = measured.get_data()
    reached = [place for path in data.measured_files() for place in _called(Path(path), set(data.lines(path) or ()))]
    yield reached, seconds, failing


def _called(path: Path, lines: set[int]) -> Iterator[tuple[str, int]]:
    """Every line of the functions of which one ran: an expression may begin on a line that Python does not count."""
    name = str(path.relative_to(ROOT))
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and any(part.lineno in lines for part in node.body):
            yield from ((name, line) for line in range(node.lineno, (node.end_lineno or node.lineno) + 1))


def _tried(name: str, without: frozenset[str]) -> Iterator[tuple[str, str | None]]:
    """Each step's name, and what it raised."""
    from conformance.core.verdicts import NotApplicableError

    warnings.simplefilter("ignore")
    for step, call in _steps(name):
        if step in without:
            continue
        error = None
        try:
            call()
        except NotApplicableError:
            pass
        except BaseException as raised:
            error = f"{type(raised).__name__}: {raised}"
        yield step, error


def _kill(mutant: Mutant, name: str, without: frozenset[str]) -> Iterator[str]:
    """The first step that fails on the mutant."""
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    _install(mutant)
    try:
        failed = next((f"{step}: {error}" for step, error in _tried(name, without) if error), None)
    except BaseException as raised:  # the suite itself cannot be imported with it
        failed = f"import: {type(raised).__name__}: {raised}"
    if failed:
        yield failed


def _install(mutant: Mutant) -> None:
    """Have Python import the mutant in place of its module."""
    module = mutant.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    path = str(ROOT / mutant.path)

    class Loader(importlib.abc.Loader):
        def exec_module(self, module: ModuleType) -> None:
            exec(compile(mutant.source, path, "exec"), vars(module))

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, name: str, *_: object) -> Any:
            if name != module:
                return None
            package = path.endswith("__init__.py")
            locations = [str(Path(path).parent)] if package else None
            return importlib.util.spec_from_file_location(
                name, path, loader=Loader(), submodule_search_locations=locations
            )

    sys.meta_path.insert(0, Finder())


# What follows is the parent's.


def _warm_up() -> None:
    """Import what takes long, and no module of the suite that imports the reference."""
    import executorch.exir
    import executorch.runtime
    import hypothesis
    import pytest
    import torch
    import transformers.modeling_utils

    del executorch, hypothesis, pytest, transformers
    torch.set_num_threads(1)
    import torch._dynamo
    import torch._export
    import torch._inductor.decomposition
    import torch.export

    assert "conformance.reference" not in sys.modules, "a child could not import a mutant of it"


def _trials(kept: Path, log: int) -> tuple[list[Trial], frozenset[str]]:
    """All trials, and the steps that fail on the reference as it is, which say nothing of a mutant.

    Those that the file `kept` has are read from it; the others are found, and written to it.
    """
    observed: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    for name in _names():
        if name not in observed:
            found, code = collect(lambda name=name: _observe(name), output=log, seconds=_SECONDS)  # type: ignore[misc]
            if not found:
                raise SystemExit(f"{name} cannot be tried: the child ended with {code}; see the log")
            observed[name] = lines, seconds, failing = found[0]
            print(
                f"{name}: {len(lines)} lines, {seconds:.0f} s{''.join(f'; fails: {step}' for step in failing)}",
                flush=True,
            )
            kept.write_text(json.dumps(observed), encoding="utf-8")
    trials = [
        Trial(name, frozenset((path, line) for path, line in lines), seconds)
        for name, (lines, seconds, _) in observed.items()
    ]
    return trials, frozenset(step for _, _, failing in observed.values() for step in failing)


def _result(mutant: Mutant, trials: Sequence[Trial], failing: frozenset[str], log: int) -> Result:
    began = time.monotonic()
    for trial in chosen(mutant, trials):
        found, code = collect(lambda trial=trial: _kill(mutant, trial.name, failing), output=log, seconds=_SECONDS)  # type: ignore[misc]
        if found or code:
            return Result(
                mutant.name, found[0] if found else f"{trial.name}: ended with {code}", time.monotonic() - began
            )
    return Result(mutant.name, None, time.monotonic() - began)


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge a sample, and print the survivors."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.mutation")
    parser.add_argument("--mutants", type=int, default=200, metavar="N", help="size of the sample")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sample")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "mutation.jsonl", metavar="PATH")
    parser.add_argument("--prepare", action="store_true", help="find out what reaches which line, and judge nothing")
    parser.add_argument("--list", action="store_true", help="print the sample, and judge nothing")
    asked = parser.parse_args(arguments)
    found = list(mutants())
    drawn = sample(found, asked.mutants, asked.seed)
    if asked.list:
        print("\n".join(mutant.name for mutant in drawn))
        return 0
    asked.results.parent.mkdir(parents=True, exist_ok=True)
    results = {result.mutant: result for result in _read(asked.results)}
    log = os.open(asked.results.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    _warm_up()
    print(f"{len(found)} mutants, of which {len(drawn)} are tried; {len(results)} of them were before", flush=True)
    trials, failing = _trials(asked.results.with_suffix(".trials.json"), log)
    if asked.prepare:
        return 0
    with asked.results.open("a", encoding="utf-8") as written:
        for number, mutant in enumerate(drawn, 1):
            if mutant.name not in results:
                result = _result(mutant, trials, failing, log)
                written.write(json.dumps(asdict(result), ensure_ascii=False) + "\n")
                written.flush()
                results[mutant.name] = result
                by = (result.killed_by or "SURVIVED").splitlines()[0][:100]
                print(f"{number}/{len(drawn)} {result.seconds:.0f} s {mutant.name[:110]!r}: {by}", flush=True)
    print(report([results[mutant.name] for mutant in drawn]))
    return 0


def _read(path: Path) -> list[Result]:
    if not path.exists():
        return []
    return [Result(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    sys.exit(main())
