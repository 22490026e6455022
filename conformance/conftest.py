"""Loads the plugin whenever pytest is pointed at the suite, and at no other time."""

from __future__ import annotations

import os
from typing import Any

import pytest

from conformance.runner.hosts import add_hosts, require_alike
from conformance.runner.options import add_options, read_options
from conformance.runner.plugin import ConformancePlugin
from conformance.runner.recorder import Recorder


def pytest_addoption(parser: pytest.Parser) -> None:
    """The suite's own options."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Read the options, so that a typo ends the run before it begins."""
    options = read_options(config)
    recorder = None if hasattr(config, "workerinput") else Recorder(config, options)
    config.pluginmanager.register(ConformancePlugin(config, options, recorder), "conformance")
    if recorder is not None:
        config.pluginmanager.register(recorder, "conformance-recorder")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Before xdist decides where its workers are."""
    add_hosts(config)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_newgateway(gateway: Any) -> None:
    """Before anything is copied to another machine."""
    require_alike(gateway)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """No more workers than architectures: all checks of an architecture meet on one."""
    return max(1, min(len(os.sched_getaffinity(0)), len(read_options(config).selection.architectures)))
