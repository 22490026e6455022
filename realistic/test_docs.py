"""The Python in the documentation runs as it stands, with nothing changed but the paths."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.core.paths import ROOT
from tests.support.checkpoints import write_checkpoint

_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _blocks(page: str, *marks: str) -> Iterator[str]:
    """Of the page's Python, the blocks with one of these in them, in this order."""
    found = _BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    for mark in marks:
        yield next(block for block in found if mark in block)


_REFERENCE = list(_blocks("docs/guides/reference-exporter.md", "edge.to_executorch"))


@pytest.mark.parametrize(
    "blocks",
    [
        [*_REFERENCE, *_blocks("docs/guides/runner.md", "runner.reset()")],
        [*_REFERENCE, *_blocks("docs/guides/runner.md", "for_multimodal")],
        [*_blocks("docs/guides/checkpoints.md", "write_program")],
    ],
    ids=["runner", "multimodal", "own-models"],
)
def test_documented_python_runs(blocks: list[str], tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", max_position_embeddings=512)
    script = "\n".join(blocks)
    for place in ("path/or/name", "path/of/tokenizer", "MODEL_DIR"):
        script = script.replace(place, str(checkpoint))
    script = re.sub(r'"model\.pte"', f'"{tmp_path}/model.pte"', script)
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert (tmp_path / "model.pte").stat().st_size > 100_000
