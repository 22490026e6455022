"""Backends that are lowered here and run elsewhere, by a program that lowers in a second."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from executorch import backends as of_executorch
from executorch.exir import to_edge_transform_and_lower
from torch import nn

from conformance.pipeline.backends import BACKENDS, Backend, native
from conformance.pipeline.backends.absent import ABSENT

pytestmark = pytest.mark.torch

#: By directory below `executorch/backends`.
_PRESENT = {
    "apple/coreai": "coreai",
    "apple/coreml": "coreml",
    "arm": "tosa, vgf, ethos-u55",
    "native": "native",
    "openvino": "openvino",
    "qualcomm": "qnn",
    "vulkan": "vulkan",
    "webgpu": "webgpu",
    "xnnpack": "xnnpack",
}


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.linear(values)) + values


def _lowered(name: str) -> Any:
    backend = BACKENDS[name]
    torch.manual_seed(0)
    examples = (torch.ones(1, 8),)
    program: Any = torch.export.export(_Layer().eval(), examples)
    if backend.requantise is not None:
        program = backend.requantise(program, examples, None, ())
    with torch.no_grad():
        return to_edge_transform_and_lower(
            program,
            transform_passes=backend.passes(),
            partitioner=backend.partitioners(),
            compile_config=backend.edge(),
        )


def _needs(name: str) -> pytest.MarkDecorator:
    backend = BACKENDS[name]
    return pytest.mark.skipif(bool(backend.obstacle), reason=backend.obstacle)


@pytest.mark.parametrize(
    ("name", "delegate"),
    [
        ("webgpu", "VulkanBackend"),
        ("native", "NativeBackend"),
        pytest.param("coreai", "CoreAIBackend", marks=_needs("coreai")),
        pytest.param("vgf", "VgfBackend", marks=_needs("vgf")),
        pytest.param("qnn", "QnnBackend", marks=_needs("qnn")),
    ],
)
def test_whole_layer_is_one_delegate(name: str, delegate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in BACKENDS[name].environment:
        monkeypatch.setenv(variable, value)
    lowered = _lowered(name).exported_program().graph_module
    assert [module.backend_id for module in lowered.modules() if hasattr(module, "backend_id")] == [delegate]


def test_webgpus_program_is_vulkans() -> None:
    """That both have the same baselines is no accident, and shows when it ends."""
    webgpu, vulkan = (_lowered(name).to_executorch().buffer for name in ("webgpu", "vulkan"))
    assert webgpu == vulkan


def test_native_declares_the_operators_of_its_partitioner() -> None:
    assert all(map(native.declares, ("mm.default", "view_copy.default", "linear.default", "sigmoid.default")))
    assert not any(map(native.declares, ("einsum.default", "_to_dim_order_copy.default", "nonsense")))


def test_each_directory_of_executorch_is_a_backend_or_listed_with_what_it_lacks() -> None:
    (top,) = (Path(path) for path in of_executorch.__path__)
    found = {folder.name for folder in top.iterdir() if (folder / "__init__.py").exists() or any(folder.glob("*.py"))}
    found |= {folder.name for folder in top.iterdir() if folder.is_dir() and folder.name != "__pycache__"}
    found = (found - {"apple", "__init__.py"}) | {
        f"apple/{folder.name}" for folder in (top / "apple").iterdir() if folder.name != "__pycache__"
    }
    listed = [absent.directory for absent in ABSENT]
    assert not set(listed) & set(_PRESENT)
    assert found == {*listed, *_PRESENT}


@pytest.mark.parametrize("name", ["coreai", "vgf", "ethos-u55", "qnn"])
def test_a_package_that_a_compiler_lacks_is_named_with_its_install_command(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(package: str) -> str:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", missing)
    backend: Backend = BACKENDS[name]
    assert backend.obstacle.startswith(f"{name} needs {backend.requires[0]}")
    assert "pip install" in backend.obstacle
