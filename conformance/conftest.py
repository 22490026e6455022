"""Loads the plugin whenever pytest is pointed at the suite, and at no other time."""

from __future__ import annotations

import os

import pytest

from conformance.core.console import former_options
from conformance.runner import hosts, pytest_settings
from conformance.runner.options import add_options, read_options, require_paths
from conformance.runner.plugin import ConformancePlugin
from conformance.runner.recorder import Recorder


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """The suite's own options."""
    add_options(parser)
    pluginmanager.register(hosts, "conformance-hosts")


def pytest_configure(config: pytest.Config) -> None:
    """Read the options, so that a typo ends the run before it begins."""
    pytest_settings.pytest_configure(config)
    options = read_options(config)
    recorder = None
    if not hasattr(config, "workerinput"):
        require_paths(config)
        recorder = Recorder(config, options)
    config.pluginmanager.register(ConformancePlugin(config, options, recorder), "conformance")
    if recorder is not None:
        config.pluginmanager.register(recorder, "conformance-recorder")


def pytest_report_header(config: pytest.Config) -> list[str]:
    """The options that have other names now."""
    return [f"conformance: {former} is now {name}" for former, name in former_options(config.invocation_params.args)]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """No more workers than architectures: all checks of an architecture meet on one."""
    return max(1, min(len(os.sched_getaffinity(0)), len(read_options(config).selection.architectures)))
