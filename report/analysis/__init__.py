"""What run records say, computed once: statuses, causes, comparisons and history.

Every page, table, badge and the terminal print these records, and compute nothing of the kind themselves.
"""

from .report import Report, analyse

__all__ = ["Report", "analyse"]
