"""Vulkan: lowered here, run on other machines. ExecuTorch's wheel for Linux registers no such delegate."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

from conformance.pipeline.backends.base import FLOAT32_TOLERANCE, Backend

#: `require_dynamic_shapes` takes only operators whose shader can be resized, as ExecuTorch's own LLM export asks where
#: lengths are dynamic. It leaves `expand_copy` and `full_like` out too: llama has 29 operators left in place of 14.
#: Without it lfm2 does not lower: a convolution state is read in one delegate and updated in another, and ExecuTorch's
#: `tag_mutated_buffer` gives it to one of them all the same. Whatever state a delegate does take over needs
#: `alias_buffer_mutations`: else the update goes to a tensor of its own, and the next call reads the old one
#: (https://github.com/pytorch/executorch/pull/21597).
OPTIONS: Mapping[str, bool] = {"require_dynamic_shapes": True, "alias_buffer_mutations": True}


def partitioners() -> list[Any]:
    """ExecuTorch's Vulkan partitioner, for whatever length."""
    with root_logger_kept():
        from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner

    return [VulkanPartitioner(dict(OPTIONS))]


def declares(operator: str) -> bool:
    """Whether it is in Vulkan's registry."""
    return operator in _registered()


@cache
def _registered() -> frozenset[str]:
    """The registry knows custom operators by string and all others by object."""
    with root_logger_kept():
        from executorch.backends.vulkan.op_registry import vulkan_supported_ops

    names = (str(getattr(key, "__name__", key)) for key in vulkan_supported_ops)
    return frozenset(".".join(name.split(".")[-2:]) for name in names)


@contextmanager
def root_logger_kept() -> Iterator[None]:
    """Importing Vulkan's partitioner sets the root logger to INFO."""
    root = logging.getLogger()
    level = root.level
    try:
        yield
    finally:
        root.setLevel(level)


VULKAN = Backend(
    "vulkan",
    partitioners,
    FLOAT32_TOLERANCE,
    delegating=True,
    summary="Vulkan",
    device="GPUs with Vulkan, as in Android phones",
    runs=False,
    declares=declares,
)
