"""What a backend is, as data. Imports no torch; a backend's own package is imported when it lowers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement

from conformance.core.attention import PORTABLE
from conformance.core.cells import BackendTraits
from conformance.core.commands import install_command
from conformance.core.device import Device
from conformance.core.errors import InputError
from conformance.pipeline.backends.recipes import checked_edge, in_place_emission, no_passes

#: Share of the logits' scale. Float32 agrees to 1e-7 to 3e-6 over the core architectures, on the exported program and
#: on portable and XNNPACK; the smallest real fault seen (an exact GELU for a tanh one) is 2e-4 to 4e-4.
FLOAT32_TOLERANCE = 1e-5
#: See `Backend.operator_bytes`: 205 to 374 in programs of portable kernels and of XNNPACK.
SMALL_OPERATORS = 560


@dataclass(frozen=True, slots=True)
class Precision:
    """How near the logits of a program that rounds must come to its oracle.

    Rounding has ties. Where a value lies within float32's noise of the middle between two steps, two correct programs
    go different ways, and their logits are 30 to 50 dB apart in place of 120. So a position is right if it agrees with
    the oracle, or with a perturbed one: the same model, its embeddings off by no more than that noise.

    Args:
        least_sqnr: Signal to quantisation noise of each position's logits, in dB: ten times the logarithm of the sum of
            the expected ones' squares over that of the differences'.
        perturbation_std: The standard deviation of a perturbed oracle's relative change of the embeddings.
        max_perturbed_oracles: How many of them are tried, where the oracle itself disagrees.
        tie_margin: The best logit has to be the oracle's best, unless that is ahead by no more than this share of the
            scale.
    """

    least_sqnr: float
    perturbation_std: float
    max_perturbed_oracles: int
    tie_margin: float


@dataclass(frozen=True, slots=True)
class Quantisation:
    """What a backend that quantises promises of any model, the float model being the measure.

    Args:
        least_share: The share of the bytes of matrix products' weights that it quantises. Embeddings are left out.
        least_sqnr: Signal to quantisation noise of the logits against those of the float model, over a text of its own,
            in dB. It is asked of fixtures; of a checkpoint, which may be fragile, only that it is not nonsense.
        group_size: It takes only weights with a multiple of so many inputs; None if it takes any.
        embeddings: Whether it quantises embeddings too, all of them.
    """

    least_share: float
    least_sqnr: float
    group_size: int | None = None
    embeddings: bool = False


@dataclass(frozen=True, slots=True)
class Interpreter:
    """What runs the delegates of a lowered program where ExecuTorch's runtime cannot; torch runs the rest.

    Args:
        name: What it is, for a reader.
        running: Makes the context in which a delegate that torch is to call runs on it.
    """

    name: str
    running: Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class Backend:
    """One way to lower a program and run it.

    Args:
        name: As in cells and on the command line.
        summary: What it is, in a few words.
        device: What its programs run on, for choosing a backend.
        weights: What it makes of the model's weights.
        partitioners: Makes ExecuTorch partitioners, in the order they are asked; none for portable kernels only.
        tolerance: The largest error of a logit that still counts as equal, as a share of the logits' scale.
        delegating: Whether it has partitioners.
        prepare: Makes a quantised or rounded copy of a model, which is then exported, and is the oracle's model too.
        requantise: Quantises the exported program, given the examples and dynamic shapes that it was exported with and
            texts to calibrate with. The oracle is what it returns, run by torch one token a call.
        precision: How near the logits must come, where that is not by `tolerance`.
        quantisation: How much of a model it quantises, and at what cost; None if it does not quantise.
        runs: Whether its programs can be executed here. Others are only lowered and emitted.
        interpreter: What runs the lowered program, as it is before emission; None where ExecuTorch's runtime runs the
            emitted one.
        runs_on: What runs the emitted program, through a driver; None where this machine's runtime does.
        requires: The packages it needs, as in a requirements file.
        pip_options: What pip has to be given beside them to install them.
        attention: What exporters are asked for, one of `conformance.core.attention.ATTENTIONS`. It does not apply to
            those that take no such argument, nor to models that custom attention does not fit.
        environment: Environment variables that have to be set before its package is first used.
        delegates: The ids in ExecuTorch of the delegates by which a program that names no backend is taken for its;
            None where the delegates do not tell it, as those of a variant of another backend.
        operator_bytes: The most that a program may have for each operator, beside the bytes of its constants: half as
            much again as the core architectures' fixtures have, whose constants are few. A person's own backend may
            have as much as any here.
        owns_state: Whether its delegates take over the cache buffers that they update.
        owns_weights: Whether its delegates compile weights in, where they are not counted as constants.
        declares: Whether it says that it can take an operator, by name without namespace, such as ``linear.default``.
        edge: Makes ExecuTorch's settings for the edge dialect.
        passes: Makes the passes to apply before partitioning.
        emission: Makes ExecuTorch's settings for emission.
    """

    name: str
    partitioners: Callable[[], list[Any]]
    tolerance: float
    delegating: bool
    summary: str = ""
    device: str = ""
    weights: str = "as they are"
    prepare: Callable[[Any], Any] | None = None
    requantise: Callable[[Any, Any, Any, Any], Any] | None = None
    precision: Precision | None = None
    quantisation: Quantisation | None = None
    runs: bool = True
    interpreter: Interpreter | None = None
    runs_on: Device | None = None
    requires: tuple[str, ...] = ()
    pip_options: tuple[str, ...] = ()
    attention: str = PORTABLE
    environment: tuple[tuple[str, str], ...] = ()
    delegates: tuple[str, ...] | None = None
    operator_bytes: int = 2048
    owns_state: bool = False
    owns_weights: bool = False
    declares: Callable[[str], bool] | None = None
    edge: Callable[[], Any] = checked_edge
    passes: Callable[[], list[Any]] = no_passes
    emission: Callable[[], Any] = in_place_emission

    def __post_init__(self) -> None:
        if self.interpreter is not None and self.runs_on is not None:
            raise InputError(
                "invalid-backend", f"{self.name} has both an interpreter and a device, of which one runs its programs"
            )

    @property
    def on_local_runtime(self) -> bool:
        """Whether ExecuTorch's runtime on this machine runs its programs, if anything does."""
        return self.interpreter is None and self.runs_on is None

    @property
    def traits(self) -> BackendTraits:
        """What planning needs to know."""
        return BackendTraits(self.name, self.delegating, self.runs, self.quantisation is not None)

    @property
    def variant(self) -> str | None:
        """Its name, if its programs are exported otherwise, or from something else than the fixture as it is."""
        return self.name if self.prepare or self.requantise or self.attention != PORTABLE else None

    @property
    def obstacle(self) -> str:
        """What this environment lacks for it, and how to get that; empty where it lacks nothing."""
        lacking = [text for text in self.requires if not _installed(Requirement(text))]
        if not lacking:
            return ""
        install = install_command(*self.pip_options, *(Requirement(text).name for text in lacking))
        return f"{self.name} needs {', '.join(lacking)}: {install}"


def _installed(requirement: Requirement) -> bool:
    try:
        return requirement.specifier.contains(metadata.version(requirement.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return False
