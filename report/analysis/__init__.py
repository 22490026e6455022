"""The results in run records, computed once: statuses, causes, comparisons and history.

Every page, table, badge and the terminal print these records, and compute nothing of the kind themselves.
"""

from .report import Report, analyse, analyse_cells

__all__ = ["Report", "analyse", "analyse_cells"]
