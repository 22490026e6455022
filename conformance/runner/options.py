"""The plugin's command-line options, and what they select. Imports no torch: a typo is reported at once."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from conformance.core.attention import ATTENTIONS, PORTABLE
from conformance.core.call_shape import WHOLE, CallShape
from conformance.core.cells import EXPORTED, Cell, Selection, plan, split_row
from conformance.core.contract import CHECKED, CLAUSES, Chapter, Clause, Mode, Scope
from conformance.core.dotted import require_module
from conformance.core.errors import InputError, with_code
from conformance.core.exporter_names import ENVIRONMENTS, FILE, KNOWN, REFERENCE, canonical
from conformance.core.suggest import unknown, unknown_architecture, unknown_exporter
from conformance.core.versions import incompatible, installed, unsupported
from conformance.matrix.discovery import registered
from conformance.matrix.known_failures import ANY_EXPORTER
from conformance.matrix.schema import Matrix, Tier, load_matrix, matrix_digest
from conformance.matrix.sharding import division, durations, read_shard, share
from conformance.matrix.yaml_file import MatrixError
from conformance.models.checkpoints import DTYPES, Checkpoint, CheckpointError, read_checkpoint
from conformance.pipeline.backends import BACKENDS, XNNPACK, Backend, backend_called
from conformance.process.worker import Limits
from conformance.records.run import RunInfo
from conformance.runner.errors import usage_error
from conformance.runner.option_table import (
    ALL,
    CHECKPOINT_TIME_LIMIT_S,
    COLUMNS,
    DEFAULT_BACKENDS,
    DEFAULT_CACHE_LENGTH,
    DEFAULT_EXAMPLES,
    DEFAULT_MEMORY_LIMIT_MIB,
    DEFAULT_TIME_LIMIT_S,
    FULL_TIER_EXAMPLES,
    LAST_LOGITS,
    LOGITS,
    NONE,
    OPTIONS,
    READERS,
    ROWS,
    Option,
    Value,
    seed,
    split_names,
)

if TYPE_CHECKING:
    from conformance.exporters.resolve import Exporter

#: An exported program gets one in so many generated scripts if its runtime is judged too.
_EXPORTED_SHARE = 5
#: With one script, Transformers 4.57's wrong window passed PAR-4, PAR-9 and PAR-12, which are listed as failing.
_FEWEST = 5
#: Independent of the model, so skipped for checkpoints: they are about fixtures or the exporter. LOW-8 is about
#: ExecuTorch, and lowers in another process, which would need the checkpoint too.
NOT_OF_CHECKPOINTS = ("SEN-2", "SEN-3", "EXP-4", "EXP-6", "EXP-9", "EXP-10", "EXP-11", "LOW-8")
#: About how a program is made, so skipped for a `.pte` file, which holds the result.
NOT_OF_FILES = tuple(clause.id for clause in CHECKED if not {Scope.EAGER, Scope.RUNTIME}.intersection(clause.scopes))
#: The options that are about a checkpoint and how it is exported.
_OF_CHECKPOINTS = (
    *("--cache-length", "--dtype", "--logits", "--prompt-chunk", "--batch-size", "--attention"),
    "--program",
)
#: Not for fixtures, whose tokenizer is made by the suite.
ONLY_OF_CHECKPOINTS = ("RUN-4",)


def add_options(parser: pytest.Parser) -> None:
    """Register the options, all in one group of `--help`."""
    group = parser.getgroup("conformance", "ExecuTorch conformance suite for Transformers")
    for option in OPTIONS:
        if not option.of_hypothesis:
            names = [option.name, option.former] if option.former else [option.name]
            group.addoption(*names, help=option.full_help, **_attributes(option))


def _attributes(option: Option) -> dict[str, Any]:
    """The arguments of argparse for it."""
    attributes: dict[str, Any] = {"dest": option.dest} if option.dest else {}
    if option.value is Value.FLAG:
        return {**attributes, "action": "store_true"}
    attributes["metavar"] = option.metavar or ("N" if option.value is Value.COUNT else "NAMES")
    if option.value is Value.TEXTS:
        return {**attributes, "action": "append", "default": []}
    if option.value in READERS:
        attributes["type"] = _argparse_type(READERS[option.value])
    return {**attributes, "default": option.default}


def _argparse_type(read: Callable[[str], object]) -> Callable[[str], object]:
    def convert(text: str) -> object:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(with_code(error)) from error

    return convert


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a run.

    `absent` are the selected rows whose architecture the installed Transformers lacks, and `retired` the architectures
    that are judged only if they are named. With a `checkpoint`, only that is judged, the matrix has no rows, and
    `known` is the matrix with the backends' known failures. `shape` is the shape of its programs' calls, `attention`
    the attention that its exporter uses, and `program` the file that is judged instead.
    """

    matrix: Matrix
    selection: Selection
    examples: int
    seed: int | None
    record: Path
    resume: bool
    since: Path | None
    limits: Limits | None
    bundles: Path
    store: Path
    store_limit: int
    asked: Mapping[str, str | int | None]
    absent: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()
    checkpoint: Checkpoint | None = None
    known: Matrix | None = None
    shape: CallShape = WHOLE
    attention: str = PORTABLE
    program: Path | None = None

    @property
    def exploring(self) -> str:
        """The options beside the selection that change what is judged and which scripts are tried, as typed."""
        parts = [f"--max-examples {self.examples}"] if self.examples != DEFAULT_EXAMPLES else []
        parts += [f"--hypothesis-seed {self.seed}"] if self.seed is not None else []
        if self.checkpoint is not None:
            parts += [f"--checkpoint {shlex.quote(str(self.checkpoint.path))}"]
            settings = {**self.asked, "cache-length": self.checkpoint.max_cache_len, "dtype": self.checkpoint.dtype}
            typed = {name: settings.get(name.lstrip("-")) for name in _OF_CHECKPOINTS}
            parts += [f"{name} {shlex.quote(str(value))}" for name, value in typed.items() if value]
        return " ".join(parts)

    def examples_of(self, cell: Cell) -> int:
        """Scripts to generate for `cell`: fewer for an exported program whose lowered program runs too.

        Its calls take three times as long as the runtime's, and if the runtime's logits are right, so are its own.
        """
        if cell.backend == EXPORTED and self.selection.runs(cell.architecture):
            return max(min(self.examples, _FEWEST), self.examples // _EXPORTED_SHARE)
        return self.examples

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every planned cell."""
        return tuple(plan(self.selection))


def read_options(config: pytest.Config) -> Options:
    """The options from the command line and the matrix.

    Raises:
        pytest.UsageError: A name that does not exist, with the nearest that does; an error in the matrix; or versions
            that cannot work together.
    """
    try:
        matrix = load_matrix()
    except MatrixError as error:
        raise usage_error(error.code, str(error)) from error
    _check_known_failures(matrix)
    get = config.getoption
    tier = _one_tier(get("--tier"))
    checkpoint, known = _checkpoint(config), matrix
    if checkpoint is not None:
        matrix = Matrix({})
    retired = matrix.retired_after(installed("transformers") or "0")
    chosen = chosen_architectures(matrix, tier, None if checkpoint else get("--arch"), registered(), retired)
    architectures, absent = ((checkpoint.name,), ()) if checkpoint else chosen
    not_lowered: tuple[str, ...] = ()
    if checkpoint is None:
        architectures, not_lowered = with_variations(matrix, tier, architectures, get("--variation"), get("--arch"))
    divided: dict[str, str] = {}
    if get("--shard"):
        architectures, divided["division"] = _share(architectures, get("--shard"))
    backends = _backends(get("--backend"), tier)
    program = _program(config)
    left_out = (*(NOT_OF_CHECKPOINTS if checkpoint else ONLY_OF_CHECKPOINTS), *(NOT_OF_FILES if program else ()))
    selection = Selection(
        architectures=architectures,
        subjects=[FILE] if program else _subjects(get("--exporter")),
        backends=[_backend(name).traits for name in backends if name != EXPORTED],
        clauses=_clauses(get("--clause"), left_out, "a program file" if program else "a model" if checkpoint else None),
        modes=[Mode(name) for name in _chosen("mode", get("--mode"), list(Mode), tuple(Mode))],
        not_lowered=not_lowered,
        exported=program is None,
        # One architecture: each cell of LOW-8 takes a process, and three of them took 40 % of tier smoke.
        sample=None if _names_sampled(get("--clause")) else matrix.in_tier(Tier.SMOKE)[:1],
    )
    if problems := [*incompatible(), *unsupported(selection.subjects)]:
        raise usage_error("incompatible-versions", "; ".join(problems))
    _require_cells(selection)
    # A debugger needs the terminal, which a forked process does not have.
    in_process = get("--in-process") or get("usepdb", False)
    names = [  # of the record, in which an option keeps the name that it had first
        "--arch",
        "--variation",
        "--subject",
        "--backend",
        "--mode",
        "--clause",
        "--tier",
        "--shard",
        "--examples",
        "--since",
    ]
    if checkpoint is not None:
        names += ["--checkpoint", *_OF_CHECKPOINTS]
    return Options(
        matrix=matrix,
        selection=selection,
        examples=get("--max-examples") or _usual_examples(tier),
        seed=_seed(get("--hypothesis-seed", None)),
        record=_record(config.rootpath, get("--output")),
        resume=get("--resume"),
        since=config.rootpath / get("--since") if get("--since") else None,
        limits=None if in_process else _limits(config, checkpoint),
        bundles=config.rootpath / get("--failures-dir"),
        store=config.rootpath / get("--cache-dir"),
        store_limit=0 if checkpoint else get("--cache-limit"),  # it has the size of thousands of fixtures
        asked={**{name.lstrip("-"): get(name) for name in names}, "matrix": matrix_digest(), **divided},
        absent=absent,
        retired=() if get("--arch") else tuple(sorted(retired.intersection(registered()))),
        checkpoint=checkpoint,
        known=known if checkpoint else None,
        shape=_shape(config),
        attention=_one("attention", get("--attention"), ATTENTIONS, PORTABLE),
        program=program,
    )


def _require_cells(selection: Selection) -> None:
    """Raises `pytest.UsageError` if no clause applies to any program, with the reason for each clause."""
    if selection.architectures and not any(plan(selection)):  # a shard may be left without architectures
        raise usage_error("no-check", f"nothing to judge: {'; '.join(selection.reasons_without_cells())}")


def require_paths(config: pytest.Config) -> None:
    """Raises `pytest.UsageError` for an argument that is not a path, which pytest's workers ignore (xdist 3.8)."""
    for argument in config.args:
        path = argument.partition("::")[0]
        if not (config.invocation_params.dir / path).exists() and not config.getoption("pyargs"):
            hint = f"; did you mean --arch {path}?" if path in registered() else ""
            raise usage_error("file-error", f"{path}: no such file or directory{hint}")


def _checkpoint(config: pytest.Config) -> Checkpoint | None:
    get = config.getoption
    if not get("--checkpoint"):
        given = [name for name in _OF_CHECKPOINTS if get(name)]
        if given:
            raise usage_error("conflicting-options", f"{given[0]} needs --checkpoint")
        return None
    if get("--since"):
        raise usage_error(
            "conflicting-options", "--since is about fixtures; a checkpoint is judged as a whole, so leave out --since"
        )
    dtype = _one("dtype", get("--dtype"), DTYPES, "auto")
    try:
        found = read_checkpoint(
            config.rootpath / get("--checkpoint"),
            get("--cache-length") or DEFAULT_CACHE_LENGTH,
            dtype,
            batch_size=get("--batch-size") or 1,
        )
    except CheckpointError as error:
        raise usage_error(error.code, f"--checkpoint: {error}") from error
    if get("--arch") not in (None, found.name):
        raise usage_error(
            "conflicting-options", f"--arch {get('--arch')}: --checkpoint judges only {found.name}; leave out --arch"
        )
    return found


def _shape(config: pytest.Config) -> CallShape:
    last = _one("choice of logits", config.getoption("--logits"), LOGITS, LOGITS[0]) == LAST_LOGITS
    return CallShape(last, config.getoption("--prompt-chunk"))


def _program(config: pytest.Config) -> Path | None:
    name = config.getoption("--program")
    if not name:
        return None
    path: Path = config.rootpath / name
    if not path.is_file():
        raise usage_error("file-error", f"--program: {path}: no such file")
    return path


def _limits(config: pytest.Config, checkpoint: Checkpoint | None) -> Limits:
    seconds, mebibytes = DEFAULT_TIME_LIMIT_S, DEFAULT_MEMORY_LIMIT_MIB
    if checkpoint is not None:
        seconds = CHECKPOINT_TIME_LIMIT_S
        mebibytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (1 << 20) * 4 // 5
    return Limits(config.getoption("--time-limit") or seconds, config.getoption("--memory-limit") or mebibytes)


def other_scripts(run: RunInfo, options: Options) -> str:
    """How the scripts that `options` ask for differ from those that a run tried; empty if they are the same."""
    asked = str(run.options.get("examples") or _usual_examples(str(run.options.get("tier"))))
    pairs = (("--max-examples", asked, str(options.examples)), ("--hypothesis-seed", run.seed, options.seed))
    others = [f"{name} was {before} there and is {now} now" for name, before, now in pairs if before != now]
    if run.options.get("backend") != EXPORTED and not any(backend.runs for backend in options.selection.backends):
        share = f"exported programs had one script in {_EXPORTED_SHARE} there, since their runtime was judged too"
        others.insert(0, share)
    return ", ".join(others)


def _usual_examples(tier: str) -> int:
    return FULL_TIER_EXAMPLES if tier == Tier.FULL else DEFAULT_EXAMPLES


def chosen_architectures(
    matrix: Matrix, tier: Tier, text: str | None, here: Collection[str], retired: Collection[str] = ()
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The architectures to judge, and the rows of the tier that would be among them if Transformers had them.

    Args:
        matrix: All rows.
        tier: Selects them, if `text` is None.
        text: Names between commas, as typed.
        here: The architectures that the installed Transformers registers; those without a row are judged too.
        retired: Those of them that are judged only if `text` names them.

    Raises:
        pytest.UsageError: A name is neither a row nor registered, or a row that is not registered.
    """
    known = (*matrix.rows, *(name for name in here if name not in matrix.architectures))
    unlisted = [name for name in here if name not in matrix.architectures and name not in retired]
    asked = _chosen("architecture", text, known, (*matrix.in_tier(tier), *unlisted))
    absent = tuple(name for name in asked if split_row(name)[0] not in here)
    if absent and text is not None:
        raise usage_error(
            "absent-architecture",
            f"not in the installed transformers {installed('transformers')}: {', '.join(absent)}",
        )
    return tuple(name for name in asked if name not in absent), absent


def with_variations(
    matrix: Matrix, tier: Tier, architectures: Sequence[str], text: str | None, named: str | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The rows to judge, and those of them whose programs are not lowered.

    Tier core has one variation for each mechanism, and judges only its exported programs: its lowered ones cost as much
    again as a whole row, and belong to tier full.

    Args:
        matrix: All rows, and all variations.
        tier: Selects variations, if `text` and `named` are None.
        architectures: The rows that were chosen before.
        text: Names of variations between commas, as typed.
        named: The value of `--arch`; None if the tier has chosen.

    Raises:
        pytest.UsageError: There is no variation of this name, or none of the architectures has it.
    """
    names = _chosen("variation", text, (*matrix.variations, ALL, NONE), (NONE,))
    if names != (NONE,):
        if NONE in names:
            raise usage_error("conflicting-options", f"--variation {text}: {NONE} cannot be combined with others")
        chosen = None if ALL in names else names
        rows = tuple(row for name in architectures for row in matrix.varied(name, chosen))
        for name in names:
            if name != ALL and not any(split_row(row)[1] == name for row in rows):
                having = ", ".join(matrix.variations[name].rows)
                raise usage_error(
                    "conflicting-options", f"--variation {name}: none of the chosen architectures has it; {having} do"
                )
        if not rows:
            raise usage_error("conflicting-options", f"--variation {text}: none of the chosen architectures has one")
        return rows, ()
    if text is not None or named is not None or tier is Tier.SMOKE:
        return tuple(architectures), ()
    all_rows = matrix.rows
    rows = tuple(
        row
        for name in architectures
        for row in (name, *(each for each in matrix.varied(name) if tier.includes(all_rows[each].tier)))
    )
    return rows, tuple(row for row in rows if split_row(row)[1]) if tier is Tier.CORE else ()


def resolve_exporters(selection: Selection) -> dict[str, Exporter]:
    """The selected subjects, imported; a usage error names one that cannot be."""
    try:  # before torch is imported, which takes seconds
        for name in selection.subjects:
            if ":" in name:
                require_module(name, "exporter")
    except InputError as error:
        raise usage_error(error.code, str(error)) from error
    from conformance.exporters.resolve import UnknownExporterError, of_a_file, resolve

    if not selection.exported:
        return {FILE: of_a_file()}
    try:
        return {name: resolve(name) for name in selection.subjects}
    except UnknownExporterError as error:
        raise usage_error(error.code, str(error)) from error


def _share(architectures: tuple[str, ...], shard: str) -> tuple[tuple[str, ...], str]:
    """The architectures of the shard, and a digest of what they were divided by."""
    try:
        seconds = durations()
        return share(architectures, read_shard(shard), seconds), division(architectures, seconds)
    except InputError as error:
        raise usage_error(error.code, f"--shard {shard}: {error}") from error


def _seed(given: str | int | None) -> int | None:
    try:
        return None if given is None else seed(str(given))
    except InputError as error:
        raise usage_error(error.code, f"--hypothesis-seed: {error}") from error


def _record(directory: Path, name: str) -> Path:
    path = directory / name
    if not name or "\0" in name or path.is_dir():
        raise usage_error("invalid-output", f"--output: {name!r} cannot be a file")
    return path


def _chosen(kind: str, text: str | None, known: Collection[str], default: tuple[str, ...]) -> tuple[str, ...]:
    if text is None:
        return default
    names = split_names(text)
    if not names:
        raise usage_error("no-names", f"no {kind} given; known: {', '.join(sorted(known))}")
    for name in names:
        if name not in known:
            is_row = kind == ROWS.kind
            raise usage_error(
                "unknown-name", unknown_architecture(name, known) if is_row else unknown(kind, name, known)
            )
    return tuple(names)


def _one(kind: str, text: str | None, known: Collection[str], default: str) -> str:
    names = _chosen(kind, text, known, (default,))
    if len(names) > 1:
        raise usage_error("conflicting-options", f"one {kind} at a time, not {', '.join(names)}")
    return names[0]


def _backends(text: str | None, tier: Tier) -> tuple[str, ...]:
    default = (XNNPACK.name,) if tier is Tier.FULL else DEFAULT_BACKENDS
    chosen = default if text is None else tuple(split_names(text))
    if not chosen:
        raise usage_error("no-names", f"no backend given; known: {', '.join(sorted((*BACKENDS, EXPORTED, ALL)))}")
    for name in chosen:
        if problem := COLUMNS.problem(name):
            raise usage_error("unknown-name", problem)
    return tuple(dict.fromkeys([*BACKENDS, *(name for name in chosen if name != ALL)])) if ALL in chosen else chosen


def _backend(name: str) -> Backend:
    try:
        return backend_called(name)
    except InputError as error:
        raise usage_error(error.code, str(error)) from error


def _one_tier(text: str | None) -> Tier:
    return Tier(_one("tier", text, list(Tier), Tier.CORE))


def _subjects(text: str) -> list[str]:
    names = [_subject_name(name) for name in split_names(text)]
    if not names:
        raise usage_error("no-names", f"no exporter given; known: {', '.join(sorted(KNOWN))}")
    return names


def _subject_name(name: str) -> str:
    """The name as it will stand in cells. A dotted path is imported later; any other has to be known."""
    if ":" not in name and name not in KNOWN:
        raise usage_error("unknown-name", unknown_exporter(name, KNOWN))
    if name in ENVIRONMENTS and importlib.util.find_spec(name) is None:
        raise usage_error("missing-package", f"--exporter {name} is in another environment: run {ENVIRONMENTS[name]}")
    return canonical(name)


def _names_sampled(text: str | None) -> bool:
    """Whether a sampled clause is named, and so checked on all rows; a chapter names none."""
    return bool({clause.id for clause in CHECKED if clause.sampled}.intersection(split_names(text or "")))


def _clauses(text: str | None, without: Collection[str], judged: str | None = None) -> tuple[Clause, ...]:
    """The clauses that `text` names, or all checked ones; of a chapter and of all, not those in `without`.

    None of these may be named either where something else than a fixture is `judged`.
    """
    known = {clause.id: [clause] for clause in CLAUSES}
    for chapter in Chapter:
        known[chapter.name] = [each for each in CHECKED if each.chapter is chapter and each.id not in without]
    names = _chosen("clause", text, known, tuple(each.id for each in CHECKED if each.id not in without))
    chosen = list(dict.fromkeys(clause for name in names for clause in known[name]))
    refused = [clause.id for clause in chosen if clause.id in without] if judged else []
    if refused:
        raise usage_error("no-check", f"--clause {text}: {', '.join(refused)} cannot be asked of {judged}")
    unchecked = [clause.id for clause in chosen if not clause.scopes]
    if unchecked or not chosen:
        raise usage_error("no-check", f"--clause {text}: no check of {', '.join(unchecked or names)} applies")
    return tuple(clause for clause in CHECKED if clause in chosen)


def _check_known_failures(matrix: Matrix) -> None:
    """Raises `pytest.UsageError` for a pattern without cells, whatever a run selects, and for an unknown exporter."""
    backends = [backend.traits for backend in BACKENDS.values()]
    problems = matrix.patterns_without_cells(tuple(plan(Selection(["any"], [REFERENCE], backends, CHECKED))))
    exporters = [ANY_EXPORTER, *KNOWN]
    for name, cause in matrix.causes.items():
        problems += [
            f"{name}: {unknown('exporter', exporter, exporters)}"
            for exporter in cause.exporter
            if exporter not in exporters and ":" not in exporter
        ]
    if problems:
        raise usage_error("invalid-matrix", "known_failures: " + "; ".join(problems))
