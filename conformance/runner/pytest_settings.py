"""The settings of pytest that the suite and its tests need: an installed suite has no pyproject.toml."""

from __future__ import annotations

import pytest

_MARKERS = ("clause(id): the clause of the contract that a check tests",)
#: A warning is attributed to the module of its caller; one about a module's source to the path of its file.
_IGNORED_WARNINGS = (
    # Deprecations inside torch, torchao and ExecuTorch, at each export and lowering; nothing here can mend them.
    "ignore::DeprecationWarning:(.*/)?(torch|torchao|executorch)[./]",
    "ignore::FutureWarning:(.*/)?(torch|torchao|executorch)[./]",
    # The same, attributed to the standard library: ExecuTorch reads its files by `importlib.resources.read_text`, and
    # torch's pytree specifications are copied by `copyreg`.
    "ignore:open_text is deprecated:DeprecationWarning:importlib[.]resources[.]_legacy",
    "ignore:.isinstance.treespec, LeafSpec:FutureWarning:copyreg",
    # From Python 3.12 on, at each fork of a process with threads; the children need none of them.
    "ignore:This process .pid=:DeprecationWarning:(multiprocessing[.]popen_fork|conformance[.]process[.]fork)",
    # Transformers' own exporter reads what torch has renamed.
    "ignore:var_to_val is deprecated:FutureWarning:(.*/)?transformers[./]exporters[./]",
    # torch's strict export says at each call that non-strict is the default now.
    "ignore::UserWarning:torch[.]",
    # ExecuTorch says at each emission that a cache's initial value is not stored; zeros are what a cache starts with.
    "ignore:Mutation on a buffer in the model:UserWarning:executorch[.]",
)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, and ignore warnings of others. A `conftest.py` imports this, or calls it."""
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)
    for warning in _IGNORED_WARNINGS:
        config.addinivalue_line("filterwarnings", warning)
