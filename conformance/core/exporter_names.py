"""Subjects: the exporters that can be put under test.

This file imports nothing, so that a typo in a name is found before torch is loaded.
"""

#: The suite's own, which exports all checkpoints.
REFERENCE = "reference"

#: Name to `package.module:callable`. The path of a known exporter is replaced by its name: one subject has one name.
KNOWN = {
    REFERENCE: "conformance.reference:convert_and_export_with_cache",
    "transformers": "transformers.integrations.executorch:convert_and_export_with_cache",
    "transformers-hybrid": "conformance.exporters.transformers_hybrid:convert_and_export_with_cache",
    "transformers-exporters": "conformance.exporters.transformers_exporters:SUBJECT",
    "optimum": "conformance.exporters.optimum:SUBJECT",
}

#: The environment of exporters whose package the suite itself does not install.
ENVIRONMENTS = {"optimum": "tox -e optimum"}

#: The subject of cells whose program is a file, which does not name its exporter.
FILE = "file"

#: `recipe:NAME` is a backend by one of the recipes that ExecuTorch registers.
RECIPE = "recipe"

#: The suite's packages with code that can be put under test: the deliberately faulty subjects are among its tests.
_OWN_PACKAGES = frozenset({"conformance", "tests"})


def canonical(name: str) -> str:
    """The subject's known name, if it has one."""
    return next((known for known, target in KNOWN.items() if name == target), name)


def is_own(name: str) -> bool:
    """Whether a subject's code came with this checkout or with Transformers, so that naming it brings in no other."""
    return name in KNOWN or name.partition(":")[0].partition(".")[0] in _OWN_PACKAGES


def is_own_backend(name: str) -> bool:
    """The same of a backend, with those of ExecuTorch."""
    prefix, colon, _ = name.partition(":")
    return not colon or prefix == RECIPE or prefix.partition(".")[0] in _OWN_PACKAGES
