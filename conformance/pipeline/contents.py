"""The tensors that an exported program holds, and where their bytes are in a file: a search for all in one pass."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch.export import ExportedProgram

#: Words of a tensor that are looked at for one that is rare in it, and words of the file that are looked at at a time.
_SAMPLE = 4096
_CHUNK = 1 << 22
#: Knuth's multiplier: words that differ in any bit have other upper halves, as a rule.
_SPREAD = np.uint32(2654435761)
_HALF = np.uint32(16)


def held_tensors(program: ExportedProgram) -> dict[str, torch.Tensor]:
    """The tensors of an exported program, by name: weights, constants and buffers."""
    held = {**program.state_dict, **program.constants}
    return {name: value for name, value in held.items() if isinstance(value, torch.Tensor)}


def content_of(value: torch.Tensor) -> memoryview:
    """The tensor's elements, in order: not a copy, where they are one after the other."""
    return _array(value).data


def digest(value: torch.Tensor) -> str:
    """Of the tensor's content, whatever its shape."""
    return hashlib.sha256(_array(value).data).hexdigest()


def occurrences(file: bytes, values: Iterable[torch.Tensor]) -> Counter[str]:
    """How often the content of each of `values` is in `file`, at whatever place, by its digest.

    Eight bytes of each are looked for, those that are rare in it, and where they are the rest is compared. Looking for
    one after the other took 95 s for the 271 constants in the 622 MiB of SmolLM2-135M.

    Args:
        file: What is searched.
        values: Tensors of eight bytes or more.
    """
    sought = {digest(value): value for value in values}
    probes: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for key, value in sought.items():
        offset, probe = _probe(content_of(value))
        probes[probe].append((key, offset))
    places: dict[str, list[int]] = defaultdict(list)
    for place, probe in _matches(file, np.fromiter(probes, np.uint64)):
        for key, offset in probes[probe]:
            places[key].append(place - offset)
    found, whole = Counter[str](), memoryview(file)
    for key, starts in places.items():
        content = content_of(sought[key])
        found[key] = sum(start >= 0 and whole[start : start + len(content)] == content for start in starts)
    return found


def _array(value: torch.Tensor) -> np.ndarray:
    return value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()


def _probe(content: memoryview) -> tuple[int, int]:
    """Eight bytes of `content` that begin with a rare word of it, as a number, and where they are in it."""
    words = np.frombuffer(content, np.uint32, len(content) // 4)[:-1]
    sample = np.linspace(0, len(words) - 1, min(_SAMPLE, len(words)), dtype=np.int64)
    _, first, counts = np.unique(words[sample], return_index=True, return_counts=True)
    offset = 4 * int(sample[first[counts.argmin()]])
    return offset, int.from_bytes(content[offset : offset + 8], "little")


def _matches(file: bytes, probes: np.ndarray) -> Iterator[tuple[int, int]]:
    """Each place in `file` with one of `probes`, and that one."""
    likely = np.zeros(1 << 16, bool)
    likely[(probes.astype(np.uint32) * _SPREAD) >> _HALF] = True
    for shift in range(min(4, len(file))):
        words = np.frombuffer(file, np.uint32, (len(file) - shift) // 4, shift)
        for start in range(0, len(words) - 1, _CHUNK):
            part = words[start : start + _CHUNK + 1]
            places = np.flatnonzero(likely[(part[:-1] * _SPREAD) >> _HALF])
            pairs = part[places].astype(np.uint64) | part[places + 1].astype(np.uint64) << np.uint64(32)
            right = np.isin(pairs, probes)
            yield from zip((4 * (places[right] + start) + shift).tolist(), pairs[right].tolist(), strict=True)
