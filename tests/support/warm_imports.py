"""What a warm process imports, and does once, of what takes long: see `tests.support.warm`."""

import gc

from conformance.core.warnings_filter import silence_third_party

silence_third_party()

import executorch.exir  # noqa: E402, F401

import conformance.checks.compare  # noqa: E402, F401 - with torch and Transformers: 9 s of CPU
from conformance.pipeline.backends import XNNPACK  # noqa: E402
from conformance.pipeline.warmup import warm_up_export, warm_up_lowering, warm_up_runtime  # noqa: E402

# As a run does before it forks a process for each architecture: another 5 s.
warm_up_export()
warm_up_runtime()
warm_up_lowering([XNNPACK])
gc.freeze()  # a fork that collects garbage would copy all of it
