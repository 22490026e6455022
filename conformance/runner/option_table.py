"""The options of a run, described once, for pytest and for the command line. Imports no pytest."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum

from conformance.core.attention import ATTENTIONS
from conformance.core.cells import EXPORTED
from conformance.core.contract import CLAUSES, Chapter, Mode
from conformance.core.errors import InputError
from conformance.core.exporter_names import KNOWN, REFERENCE
from conformance.core.option_names import FORMER_OPTIONS
from conformance.core.suggest import unknown, unknown_architecture, unknown_backend, unknown_exporter
from conformance.matrix.discovery import registered
from conformance.matrix.schema import Tier, load_matrix
from conformance.matrix.sharding import read_shard
from conformance.models.checkpoints import DTYPES
from conformance.pipeline.backends import BACKENDS, PORTABLE, XNNPACK

DEFAULT_EXAMPLES = 25
#: Over all architectures, generated scripts would cost more than lowering does; the pinned ones are always tried.
FULL_TIER_EXAMPLES = 5
#: Cells of an architecture take 20 to 200 s on a machine of 2 cores, all backends together.
DEFAULT_TIME_LIMIT_S = 600
#: The largest fixture needs 1.6 GiB while it is lowered.
DEFAULT_MEMORY_LIMIT_MIB = 6144
#: The same for a model of realistic size, whose lowering alone takes minutes.
CHECKPOINT_TIME_LIMIT_S = 14_400
#: Paths are relative to the folder that a run is started in.
DEFAULT_RECORD = "build/conformance/run.json"
DEFAULT_STORE = "build/conformance/store"
DEFAULT_BUNDLES = "build/conformance/failures"
#: A program of a fixture takes 0.1 to 0.5 MiB, all 378 of the full tier on one backend about 100.
DEFAULT_STORE_LIMIT_MIB = 2048
#: Positions in the cache of a checkpoint that is judged, in tokens. Each costs a step of eager decoding for each text.
DEFAULT_CACHE_LENGTH = 64
#: The backends that need only ExecuTorch.
DEFAULT_BACKENDS = (PORTABLE.name, XNNPACK.name)
#: The value of `--backend` and `--variation` for all of them.
ALL = "all"
#: The value of `--variation` for the fixtures only.
NONE = "none"
#: The tokens of a call whose logits a program returns.
ALL_LOGITS, LAST_LOGITS = LOGITS = ("all", "last")


@dataclass(frozen=True, slots=True)
class Names:
    """A kind of names.

    Args:
        kind: The word for one of them in messages.
        known: Returns all of them; called only when a name was typed.
        message: Makes the error message for a name that is not known.
        pattern: The form of names that need not be known.
    """

    kind: str
    known: Callable[[], Collection[str]]
    message: Callable[[str, Collection[str]], str] | None = None
    pattern: str = ""

    def problem(self, name: str) -> str:
        """What is wrong with `name`; empty if it is known.

        Raises:
            ValueError: An error in the matrix.
        """
        if self.pattern and re.search(self.pattern, name):
            return ""
        known = self.known()
        if name in known:
            return ""
        return self.message(name, known) if self.message else unknown(self.kind, name, known)


def _rows() -> Collection[str]:
    return tuple(dict.fromkeys([*load_matrix().rows, *registered()]))


def _runnable() -> Collection[str]:
    return [EXPORTED, *(name for name, backend in BACKENDS.items() if backend.traits.runs)]


ARCHITECTURES = Names("architecture", registered, unknown_architecture)
ROWS = Names("architecture", _rows, unknown_architecture)
VARIATIONS = Names("variation", lambda: [*load_matrix().variations, ALL, NONE])
EXPORTERS = Names("exporter", lambda: KNOWN, unknown_exporter, pattern=":")
BACKEND_NAMES = Names("backend", lambda: BACKENDS, unknown_backend, pattern=":")
COLUMNS = Names("backend", lambda: [*BACKENDS, EXPORTED, ALL], unknown_backend, pattern=":")
RUNNABLE = Names("backend that runs here", _runnable)
MODES = Names("mode", lambda: list(Mode))
CLAUSE_NAMES = Names("clause", lambda: [*(clause.id for clause in CLAUSES), *(chapter.name for chapter in Chapter)])
TIERS = Names("tier", lambda: list(Tier))
DTYPE_NAMES = Names("dtype", lambda: DTYPES)
LOGITS_NAMES = Names("choice of logits", lambda: LOGITS)
ATTENTION_NAMES = Names("attention", lambda: ATTENTIONS)


class Topic(StrEnum):
    """The sections of `conformance run --help`."""

    WHAT = "What to judge"
    HOW = "How"
    WHERE = "Where to read and write"


class Value(StrEnum):
    """The kind of an option's value."""

    FLAG = "nothing"
    NAME = "a name"
    NAMES = "names, comma-separated"
    COUNT = "a whole number above 0"
    SIZE = "a whole number, 0 among them"
    SEED = "a whole number of up to 40 digits"
    SHARD = "a part of several"
    TEXTS = "a text, several times"
    FILE = "the path of a file"
    FOLDER = "the path of a folder"


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a run.

    Args:
        name: The option as typed.
        topic: The section of the help that it is in.
        help: One line.
        value: The kind of its value.
        metavar: The word for its value in the help; for names and counts, `NAMES` and `N`.
        names: The kind of its names.
        default: The default; None if it depends on other options, as `help` explains.
        dest: pytest's name for its value, if that is another.
        of_hypothesis: Whether Hypothesis' own plugin registers it with pytest.
    """

    name: str
    topic: Topic
    help: str
    value: Value = Value.NAMES
    metavar: str = ""
    names: Names | None = None
    default: str | int | None = None
    dest: str = ""
    of_hypothesis: bool = False

    @property
    def former(self) -> str:
        """Its former name; empty if it has none."""
        return next((former for former, name in FORMER_OPTIONS.items() if name == self.name), "")

    @property
    def full_help(self) -> str:
        """The help, with the default and the former name."""
        default = f" (default: {self.default})" if self.default is not None else ""
        return f"{self.help}{default}{f'; formerly {self.former}' if self.former else ''}"


def whole_number(text: str) -> int:
    """A count as it is typed, above 0."""
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", text):
        raise InputError("invalid-number", f"{text!r} is not a whole number above 0 and below 1000000000")
    return int(text)


def size(text: str) -> int:
    """A count as it is typed, 0 among them."""
    return 0 if text == "0" else whole_number(text)


def shard(text: str) -> str:
    """A shard as it is typed, if it is one."""
    read_shard(text)
    return text


def seed(text: str) -> int:
    """A seed of Hypothesis as a number: Hypothesis accepts any text, a record only numbers."""
    if not re.fullmatch(r"[0-9]{1,40}", text):
        raise InputError("invalid-number", f"{text!r} is not a whole number of up to 40 digits")
    return int(text)


#: How a value is read; what is not here is text. Each raises ValueError.
READERS: dict[Value, Callable[[str], object]] = {
    Value.COUNT: whole_number,
    Value.SIZE: size,
    Value.SHARD: shard,
    Value.SEED: seed,
}

OPTIONS = (
    Option("--arch", Topic.WHAT, "architectures, comma-separated; default: all of the tier", names=ROWS),
    Option(
        "--variation",
        Topic.WHAT,
        f"judge these variations of the fixtures in place of the fixtures themselves; {ALL} of them; or {NONE} "
        "(default: those that the tier has; none with --arch)",
        names=VARIATIONS,
    ),
    Option(
        "--exporter",
        Topic.WHAT,
        f"exporters to test: {', '.join(KNOWN)} or package.module:callable",
        names=EXPORTERS,
        default=REFERENCE,
        dest="subject",
    ),
    Option(
        "--backend",
        Topic.WHAT,
        f"of {', '.join(BACKENDS)}; {ALL} of them; package.module:NAME or recipe:NAME for one that is not the suite's; "
        f"or {EXPORTED} to lower nothing (default: "
        f"{', '.join(DEFAULT_BACKENDS)}; {XNNPACK.name} in tier full)",
        names=COLUMNS,
    ),
    Option("--mode", Topic.WHAT, f"of {', '.join(Mode)} (default: both)", names=MODES),
    Option(
        "--clause",
        Topic.WHAT,
        "clauses such as PAR-1, or whole chapters such as PAR (default: all that have a check)",
        metavar="IDS",
        names=CLAUSE_NAMES,
    ),
    Option(
        "--tier", Topic.WHAT, f"of {', '.join(Tier)} (default: core)", value=Value.NAME, metavar="TIER", names=TIERS
    ),
    Option(
        "--checkpoint",
        Topic.WHAT,
        "judge the model in this directory, as `save_pretrained` writes it, in place of architectures; see "
        "`conformance model check`",
        value=Value.FOLDER,
        metavar="DIR",
    ),
    Option(
        "--cache-length",
        Topic.WHAT,
        f"positions in the cache of a --checkpoint, in tokens (default: {DEFAULT_CACHE_LENGTH})",
        value=Value.COUNT,
    ),
    Option(
        "--dtype",
        Topic.WHAT,
        f"of {', '.join(DTYPES)}: what a --checkpoint computes in",
        value=Value.NAME,
        metavar="NAME",
        names=DTYPE_NAMES,
    ),
    Option(
        "--logits",
        Topic.WHAT,
        "all, or last: of which tokens of a call the program of a --checkpoint returns the logits (default: all)",
        value=Value.NAME,
        metavar="NAME",
        names=LOGITS_NAMES,
    ),
    Option(
        "--prompt-chunk",
        Topic.WHAT,
        "longest call of the program of a --checkpoint in mode dynamic, in tokens (default: the cache's length)",
        value=Value.COUNT,
    ),
    Option(
        "--batch-size",
        Topic.WHAT,
        "rows in a call of the program of a --checkpoint (default: 1)",
        value=Value.COUNT,
    ),
    Option(
        "--attention",
        Topic.WHAT,
        "portable, or custom: by what operators the program of a --checkpoint computes attention (default: portable)",
        value=Value.NAME,
        metavar="NAME",
        names=ATTENTION_NAMES,
    ),
    Option(
        "--program",
        Topic.WHAT,
        "judge this program of the --checkpoint, and export nothing; see `conformance model check`",
        value=Value.FILE,
        metavar="MODEL.pte",
    ),
    Option(
        "--shard",
        Topic.WHAT,
        "judge the K-th of N parts of the architectures, which take about equally long; `conformance report merge` "
        "makes one record of all N",
        value=Value.SHARD,
        metavar="K/N",
    ),
    Option(
        "--since",
        Topic.WHAT,
        "rerun only cells whose verdict may have changed since that run",
        value=Value.FILE,
        metavar="RUN.json",
    ),
    Option(
        "--max-examples",
        Topic.HOW,
        f"scripts generated for each parity cell, beside the pinned ones (default: {DEFAULT_EXAMPLES}; "
        f"{FULL_TIER_EXAMPLES} in tier full)",
        value=Value.COUNT,
        dest="examples",
    ),
    Option(
        "--hypothesis-seed",
        Topic.HOW,
        "seed of the generated scripts (default: a fixed one, with the same scripts in every run)",
        value=Value.SEED,
        of_hypothesis=True,
    ),
    Option(
        "--time-limit",
        Topic.HOW,
        f"for the cells of one architecture on one backend in one mode (default: {DEFAULT_TIME_LIMIT_S}; "
        f"{CHECKPOINT_TIME_LIMIT_S} for a --checkpoint)",
        value=Value.COUNT,
        metavar="SECONDS",
    ),
    Option(
        "--memory-limit",
        Topic.HOW,
        f"resident memory of the process that judges an architecture (default: {DEFAULT_MEMORY_LIMIT_MIB}; four fifths "
        "of the machine's for a --checkpoint)",
        value=Value.COUNT,
        metavar="MIB",
    ),
    Option(
        "--host",
        Topic.HOW,
        "a worker in a checkout of the same commit on another machine: socket=HOST:PORT//chdir=CHECKOUT or "
        "ssh=HOST//python=PYTHON//chdir=CHECKOUT; may be given several times",
        value=Value.TEXTS,
        metavar="SPEC",
    ),
    Option(
        "--in-process",
        Topic.HOW,
        "run in the pytest process (no isolation or limits); for debugging",
        value=Value.FLAG,
    ),
    Option(
        "--output",
        Topic.WHERE,
        "where the record of the run is written",
        value=Value.FILE,
        metavar="PATH",
        default=DEFAULT_RECORD,
        dest="record",
    ),
    Option(
        "--resume",
        Topic.WHERE,
        "resume the run that is recorded at --output; judge only cells without a verdict",
        value=Value.FLAG,
    ),
    Option(
        "--failures-dir",
        Topic.WHERE,
        "where failure bundles are written",
        value=Value.FOLDER,
        metavar="PATH",
        default=DEFAULT_BUNDLES,
        dest="bundles",
    ),
    Option(
        "--cache-dir",
        Topic.WHERE,
        "where lowered programs are kept from run to run",
        value=Value.FOLDER,
        metavar="PATH",
        default=DEFAULT_STORE,
        dest="store",
    ),
    Option(
        "--cache-limit",
        Topic.WHERE,
        "size of --cache-dir; 0 to lower everything anew and keep nothing",
        value=Value.SIZE,
        metavar="MIB",
        default=DEFAULT_STORE_LIMIT_MIB,
        dest="store_limit",
    ),
)


def split_names(text: str | None) -> list[str]:
    """The parts between commas, each once."""
    return list(dict.fromkeys(part.strip() for part in (text or "").split(",") if part.strip()))
