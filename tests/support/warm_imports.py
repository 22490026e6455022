"""What a warm process imports, of what takes long: see `tests.support.warm`."""

import gc

from conformance.core.warnings_filter import silence_third_party

silence_third_party()

import executorch.exir  # noqa: E402 - with the next four, 9 s of CPU: all that this module is for
import executorch.runtime  # noqa: E402, F401
import torch.export  # noqa: E402, F401
import transformers.generation.utils  # noqa: E402
import transformers.masking_utils  # noqa: E402, F401

gc.collect()
gc.freeze()  # a fork that collects garbage would copy all of it
