"""The documentation, as Sphinx builds it: `tox -e docs`.

The pages are Markdown that GitHub shows as well. What only Sphinx needs, such as the order of the pages, is here.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

project = "ExecuTorch conformance suite for Transformers"
version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
html_title = f"ExecuTorch conformance {version}"
html_theme = "furo"
html_show_copyright = False
exclude_patterns = ["records"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# Anchors of headings, as GitHub makes them.
myst_heading_anchors = 4

# The API is documented without torch and Transformers, which take minutes to install, and without the modules that
# compute with their types when imported.
_INTERNAL = [f"conformance.reference.{name}" for name in ("passes", "tracing", "trial")]
autodoc_mock_imports = ["torch", "transformers", *_INTERNAL]
autoclass_content = "both"
autodoc_typehints = "description"
autodoc_member_order = "bysource"
# Docstrings have code between single backticks.
default_role = "code"
# Types of packages whose documentation is elsewhere, and a description that napoleon takes for a type.
nitpick_ignore_regex = [
    ("py:.*", r"(torch|transformers|collections\.abc|conformance\.reference\.tracing)\..*"),
    ("py:class", "PreTrainedModel|StaticCache|ExportedProgram|By name"),
]

#: The pages in the sidebar, by caption.
_SIDEBAR = {
    "Tutorial": ["tutorial/first-run", "tutorial/first-failure"],
    "Guides": [
        "guides/transformers-maintainers",
        "guides/backend-maintainers",
        "guides/exporter-authors",
        "guides/app-developers",
        "guides/running",
        "guides/failures",
        "guides/ci",
        "guides/report",
        "guides/checkpoints",
        "guides/runner",
        "guides/reference-exporter",
        "guides/devices",
        "guides/exploring",
        "troubleshooting",
    ],
    "Concepts": [
        "concepts/overview",
        "concepts/reading-a-run",
        "concepts/oracle",
        "concepts/sensitivity",
        "concepts/known-failures",
        "concepts/isolation",
        "concepts/variations",
        "security",
        "glossary",
    ],
    "Reference": [
        "reference/status",
        "reference/contract",
        "reference/cli",
        "reference/errors",
        "reference/schemas",
        "reference/backends",
        "reference/exporters",
        "reference/versions",
        "reference/compatibility",
        "reference/api",
        "reference/faults",
        "reference/mutation",
        "performance/programs",
        "performance/suite",
        "findings/README",
    ],
    "Project": ["changelog", "contributing", "architecture"],
}
#: Pages that are listed on another one: its name, and theirs.
_BELOW = {"reference/backends": "backends/*", "findings/README": "*"}


def _add_sidebar(app: Sphinx, docname: str, source: list[str]) -> None:
    if docname == "index":
        for caption, pages in _SIDEBAR.items():
            source[0] += _hidden_toctree(f":caption: {caption}", *pages)
    elif docname in _BELOW:
        source[0] += _hidden_toctree(":glob:", _BELOW[docname])


def _hidden_toctree(option: str, *pages: str) -> str:
    return "\n".join(["", "```{toctree}", ":hidden:", option, "", *pages, "```", ""])


#: Pages that stand in for files above this folder: by name, the file.
_ABOVE = {"changelog": "CHANGELOG.md", "contributing": "CONTRIBUTING.md", "architecture": "ARCHITECTURE.md"}


def _take_in_files_above(app: Sphinx, docname: str, source: list[str]) -> None:
    if docname in _ABOVE:
        source[0] = (ROOT / _ABOVE[docname]).read_text(encoding="utf-8").replace("](docs/", "](/")
    for page, file in _ABOVE.items():
        source[0] = re.sub(rf"\]\((\.\./)*{file}", f"](/{page}.md", source[0])


_REFERENCE_LINK = re.compile(r"\[`(\w+)`\]\[[\w.]+\]")


def _link_in_docstrings(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings link in Markdown: [`name`][package.name]."""
    lines[:] = [_REFERENCE_LINK.sub(r":py:obj:`\1`", line) for line in lines]


def setup(app: Sphinx) -> None:
    """Connect what changes a page's source, or a docstring, before it is read."""
    app.connect("source-read", _add_sidebar)
    app.connect("source-read", _take_in_files_above)
    app.connect("autodoc-process-docstring", _link_in_docstrings)
