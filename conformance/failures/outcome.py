"""How a check ended. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conformance.failures.divergence import Divergence


@dataclass(frozen=True, slots=True)
class Outcome:
    """The input of a verdict.

    Args:
        error: The exception that the check raised; None where it raised none.
        divergence: Where the program first goes wrong, where that was looked for.
        bundle: The folder for a failure's bundle, relative to where the run was started; None where it gets none.
    """

    error: BaseException | None = None
    divergence: Divergence | None = None
    bundle: str | None = None

    @property
    def diverged(self) -> tuple[str, ...]:
        """Lines on where the program first goes wrong; none where that was not looked for."""
        return self.divergence.lines if self.divergence else ()
