"""A device that is not this machine, as data: what runs programs on it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Device:
    """A device whose runtime is judged in place of this machine's, through a driver: see `docs/guides/devices.md`.

    Args:
        name: Its name in messages, such as "Pixel 8".
        command: The words of the driver's command. The path of the file of calls and the path of the file of logits
            are added as its last two arguments.
        seconds: The time limit of one command, which may make hundreds of calls.
    """

    name: str
    command: tuple[str, ...]
    seconds: int = 120
