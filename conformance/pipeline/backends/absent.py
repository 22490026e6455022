"""Backends that the wheel of ExecuTorch has a directory for and the suite has not, each with what it lacks here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Absent:
    """A directory below `executorch/backends`, tried with ExecuTorch 1.5.1 on Linux x86-64 and Python 3.11.

    Args:
        directory: Its name there.
        tried: What was imported, installed and lowered, and what that ended with.
        missing: What it takes to have it.
    """

    directory: str
    tried: str
    missing: str


ABSENT = (
    Absent("aoti", "imports; the base of `cuda` and `apple/metal`", "nothing: it is not a backend by itself"),
    Absent(
        "apple/metal",
        "imports; a linear layer: `Could not find libtorchao_ops_mps_aten.dylib`",
        "macOS",
    ),
    Absent(
        "cadence",
        "`cannot import name 'override' from 'typing'`; with `typing_extensions.override` in its place, llama lowers, "
        "without delegates, to operators such as `cadence::fully_connected`",
        "Python 3.12 or newer; to run it, kernels that Cadence's own compiler builds",
    ),
    Absent(
        "cortex_m",
        "imports, and has passes in place of a partitioner. All of llama in 8 bits: `bmm` of int8 queries and the "
        "float32 cache (`expected scalar type torch.int8 but found torch.float32`); its linear layers alone: "
        "`KeyError: 0` in `AtenToCortexMPass` at a product that is not quantised",
        "a quantiser that knows caches, or a pass that leaves float32 alone",
    ),
    Absent(
        "cuda",
        "`No module named 'triton'`; with triton 3.9.0 it imports, and a linear layer ends with `Torch not compiled "
        "with CUDA enabled`",
        "torch's CUDA build and a GPU",
    ),
    Absent("example", "imports", "nothing: it shows how to write a backend"),
    Absent(
        "mediatek",
        "`No module named 'mtk_converter'`; PyPI has neither that nor mtk_neuron. ai-edge-litert-sdk-mediatek 2.3.0 is "
        "a script that downloads NeuroPilot for LiteRT from elsewhere",
        "MediaTek's NeuroPilot Express SDK",
    ),
    Absent(
        "mlx",
        "`MLX delegate generated files not found`. With those that `serialization/generate.py` makes by flatc 25.12.19 "
        "(then it fails for want of C++ templates), llama lowers in mode decode",
        "the generated files, which the wheel for macOS has and that for Linux has not",
    ),
    Absent(
        "nxp",
        "`eIQ Neutron SDK not found`; PyPI has no eiq-neutron-sdk",
        "NXP's eIQ Neutron SDK, from NXP's own index",
    ),
    Absent(
        "samsung",
        "`No module named 'executorch.backends.samsung.python'`: the wheel has no adaptor for it. "
        "ai-edge-litert-sdk-samsung-nightly is a script that downloads the SDK from elsewhere",
        "ExecuTorch built with Samsung's Exynos AI LiteCore SDK",
    ),
    Absent("test", "holds ExecuTorch's own tests", "nothing: it is not a backend"),
    Absent("transforms", "holds passes that backends share", "nothing: it is not a backend"),
)
