"""A pytest plugin: the suite's own, over checks that need no torch, to see what it does when processes are lost.

`python -m pytest -p tests.faults.miniature tests/faults/miniature_checks.py` takes the suite's options.
"""

from __future__ import annotations

import pytest

from conformance.runner import hosts
from conformance.runner.options import add_options, read_options
from conformance.runner.plugin import ConformancePlugin
from conformance.runner.recorder import Recorder


class _Miniature(ConformancePlugin):
    def _warm_up(self) -> None:
        """Nothing is lowered."""


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """The suite's options."""
    add_options(parser)
    pluginmanager.register(hosts, "conformance-hosts")


def pytest_configure(config: pytest.Config) -> None:
    """As the suite's `conftest.py` does it."""
    options = read_options(config)
    recorder = None if hasattr(config, "workerinput") else Recorder(config, options)
    config.pluginmanager.register(_Miniature(config, options, recorder), "conformance")
    if recorder is not None:
        config.pluginmanager.register(recorder, "conformance-recorder")
