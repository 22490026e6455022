"""Passes: rewrites of an exported program into a form that ExecuTorch can lower and its delegates compute correctly.

Each pass is a function that rewrites the program's graph in place and changes none of its results. A new one is a
module here and an entry in `PASSES`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch.export import ExportedProgram

from conformance.reference.passes.amax import replace_max_with_amax
from conformance.reference.passes.constant_folding import fold_erfinv, fold_symbolic_maxima
from conformance.reference.passes.masked_fill import replace_index_put_with_masked_fill
from conformance.reference.passes.means import replace_means_with_products
from conformance.reference.passes.rotations import replace_rotations_with_products
from conformance.reference.passes.slices import replace_splits_with_slices
from conformance.reference.passes.stored_weights import use_stored_weights
from conformance.reference.passes.unread import remove_unread_buffers
from conformance.reference.passes.views import infer_dynamic_sizes, remove_aliases

__all__ = ["PASSES"]

#: The exporter runs them in this order.
PASSES: tuple[Callable[[ExportedProgram], None], ...] = (
    fold_erfinv,
    fold_symbolic_maxima,
    replace_max_with_amax,
    replace_index_put_with_masked_fill,
    replace_splits_with_slices,
    use_stored_weights,
    replace_means_with_products,
    replace_rotations_with_products,
    infer_dynamic_sizes,
    remove_aliases,
    remove_unread_buffers,
)
