"""Where the checkout keeps its data, and where a run puts what it writes."""

import importlib
from pathlib import Path
from types import ModuleType

#: The folder that holds `models_matrix.yaml`, `fixtures/` and the packages.
ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "fixtures"
#: Tiny configs, one JSON an architecture.
CONFIGS = FIXTURES / "configs"
#: What the search of variations found, reviewed: one JSON an architecture.
PINS = FIXTURES / "pins"
#: Named variations of fixtures, one YAML each.
VARIATIONS = FIXTURES / "variations"
#: What each backend is known to leave to portable kernels, one folder a release of ExecuTorch.
PARTITIONS = FIXTURES / "partitions"
#: Seconds an architecture takes, by which shards are balanced.
DURATIONS = FIXTURES / "durations.json"


def report_module(name: str) -> ModuleType:
    """The module `name` of the report, which is `report` in a checkout and `conformance.report` where it is installed.

    Import it for types as ``if TYPE_CHECKING: from report import NAME``.
    """
    installed = (Path(__file__).resolve().parents[1] / "report").is_dir()
    return importlib.import_module(f"conformance.report.{name}" if installed else f"report.{name}")
