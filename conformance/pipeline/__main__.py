"""`python -m conformance.pipeline REQUEST FILE PARENT`: lower one program, and write its `.pte` file.

See `conformance.pipeline.other_process`, which calls it.
"""

import sys
from pathlib import Path

from conformance.pipeline.builder import Builder
from conformance.pipeline.other_process import Request
from conformance.process.fork import end_with


def main(text: str, path: str, parent: str) -> None:
    """Write the bytes of the requested program to `path`; end when the process `parent` ends."""
    end_with(int(parent))
    request = Request.parse(text)
    builder = Builder(shape=request.shape, attention=request.attention)
    Path(path).write_bytes(builder.program(request.program).emitted)


if __name__ == "__main__":
    main(*sys.argv[1:])
