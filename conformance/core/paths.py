"""Where the suite's data is: in a checkout beside the packages, in a wheel inside of this one."""

import importlib
from pathlib import Path
from types import ModuleType

#: The package `conformance`.
PACKAGE = Path(__file__).resolve().parents[1]
#: Whether the suite runs from a wheel, which holds a copy of the data, and not from a checkout.
INSTALLED = (PACKAGE / "data").is_dir()
#: The folder that holds `models_matrix.yaml`, `known_failures/` and `fixtures/`: the checkout, or that copy.
ROOT = PACKAGE / "data" if INSTALLED else PACKAGE.parent
FIXTURES = ROOT / "fixtures"
#: Tiny configs, one JSON an architecture.
CONFIGS = FIXTURES / "configs"
#: Reviewed findings of the search for variations: one JSON an architecture.
PINS = FIXTURES / "pins"
#: What each backend is known to leave to portable kernels, one folder a release of ExecuTorch.
PARTITIONS = FIXTURES / "partitions"
#: Seconds an architecture takes, by which shards are balanced.
DURATIONS = FIXTURES / "durations.json"


def report_module(name: str) -> ModuleType:
    """The module `name` of the report, which is `report` in a checkout and `conformance.report` where it is installed.

    Import it for types as ``if TYPE_CHECKING: from report import NAME``.
    """
    return importlib.import_module(f"conformance.report.{name}" if INSTALLED else f"report.{name}")
