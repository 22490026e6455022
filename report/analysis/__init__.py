"""What run records say, computed once: statuses, causes, comparisons and history."""
